"""Read rows of data files. The ending of the name says the format: CSV, JSONL or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from distill.data import csv_files
from distill.data.columns import Row, no_column, position
from distill.errors import DataError
from distill.sections import FileSource

CSV = (".csv", ".tsv")
JSONL = (".jsonl", ".ndjson")
PARQUET = (".parquet",)

_REMEDIES = {
    ".json": "write one object a line and call it .jsonl",
    ".txt": "begin it with a line that names the columns and call it .csv or .tsv",
    ".xlsx": "save it as CSV in UTF-8",
    ".xls": "save it as CSV in UTF-8",
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip"), "unpack it first"),
}


def rows(source: FileSource, wanted: Sequence[str], *, blanks: bool) -> Iterator[Row]:
    """Yield the rows of a file, which must have the `wanted` columns; a single JSONL row may lack some of them.

    With `blanks`, an empty line of a CSV file with one column is a row too. Raises DataError for a file that cannot be
    read, and for a row that breaks the format.
    """
    path, ending = source.path, ending_of(source.path)
    if source.delimiter is not None and ending not in CSV:
        raise DataError(f"{path}: a {ending} file has no delimiter; leave `delimiter` out")
    refuse_pipe(path)
    try:
        if ending in PARQUET:
            yield from _parquet(path, wanted, source.id or "")
            return
        _refuse_utf16(path)
        if ending in CSV:
            yield from csv_files.rows(path, source.delimiter, wanted, blanks=blanks)
        else:
            yield from _jsonl(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); correct the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, {_where_undecodable(path)}; convert the file to UTF-8") from error


def ending_of(path: Path) -> str:
    """Return the ending of a data file's name. Raises DataError, with the remedy, for an unknown one."""
    ending = path.suffix.lower()
    known = (*CSV, *JSONL, *PARQUET)
    if ending not in known:
        remedy = f"; {_REMEDIES[ending]}" if ending in _REMEDIES else ""
        raise DataError(f"{path}: unknown kind of file; expected one of {', '.join(known)}{remedy}")
    return ending


def text_columns(path: Path) -> tuple[str, ...]:
    """Return the columns of a Parquet file that can be read as text, in their order; none for other kinds of files.

    Raises DataError for a file that cannot be read.
    """
    if ending_of(path) not in PARQUET:
        return ()
    import pyarrow
    import pyarrow.parquet
    from pyarrow import types

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}); correct the path") from error
    unsuited = (types.is_temporal, types.is_nested)
    return tuple(field.name for field in schema if not any(test(field.type) for test in unsuited))


def refuse_pipe(path: Path) -> None:
    """Raise DataError for a pipe, since data files are read several times."""
    if path.is_fifo():
        raise DataError(f"{path}: a pipe can be read only once; write it to a file first")


def _refuse_utf16(path: Path) -> None:
    with path.open("rb") as file:
        begins = file.read(4)
    if begins[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in begins:
        raise DataError(f"{path}: UTF-16 or binary, not UTF-8; convert the file to UTF-8")


def _where_undecodable(path: Path) -> str:
    """Return the first line that is not UTF-8, with its first invalid byte."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number}: not UTF-8 (byte 0x{line[error.start]:02x})"
    return "at its end: not UTF-8"


class Object(list[tuple[str, Any]]):
    """A JSON object as its pairs, so that duplicate keys can be found."""


def _jsonl(path: Path) -> Iterator[Row]:
    decoder = json.JSONDecoder(object_pairs_hook=Object, parse_float=Decimal)
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                pairs = decoder.decode(line)
            except json.JSONDecodeError as error:
                problem = f"{error.msg} at character {error.pos + 1}"
                raise DataError(f"{path}, line {number}: not JSON ({problem}); write one object a line") from error
            except (ValueError, ArithmeticError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(pairs, Object):
                raise DataError(f"{path}, line {number}: expected an object, got {type(pairs).__name__}")
            names, values = zip(*pairs, strict=True) if pairs else ((), ())
            yield f"line {number}", names, values


def _parquet(path: Path, wanted: Sequence[str], identifier: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        names = tuple(table.schema_arrow.names)
        needed = {name: position(names, name, path) for name in wanted}
        for name, at in needed.items():
            if at is None:
                raise no_column(path, name, names)
        number = 0
        for batch in table.iter_batches(batch_size=4096):
            columns = [
                _values(path, number, names[at], column, temporal=at == needed.get(identifier))
                if at in needed.values()
                else [None] * len(column)
                for at, column in enumerate(batch.columns)
            ]
            for values in zip(*columns, strict=True):
                yield f"row {number}", names, values
                number += 1
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not Parquet ({error})") from error


def _values(path: Path, first: int, name: str, column: Any, *, temporal: bool) -> list[Any]:
    """Convert a column, whose first value is in row `first`, to Python values. Floats keep their precision.

    Raises DataError for dates and times, which every program writes differently, unless `temporal` ones are allowed.
    """
    from pyarrow import string, types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_temporal(column.type):
        if not temporal:
            raise DataError(f"{path}: column {name!r} holds {column.type}, which is not text; write it as text")
        column = column.cast(string())
    if types.is_floating(column.type):
        return list(column.to_numpy(zero_copy_only=False))
    values = []
    for row, value in enumerate(column, start=first):
        try:
            values.append(value.as_py())
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, row {row}: column {name!r} is not UTF-8; repair the row") from error
    return values
