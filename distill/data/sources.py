"""Rows from files (CSV, JSONL, Parquet) and from the built-in support desk; an unusable row says where it is."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.data import tickets
from distill.data.splits import Examples
from distill.errors import DataError
from distill.sections import FileSource, TicketSource

Record = tuple[str, Mapping[str, Any]]
"""Where a row stands (`line 7`) and its columns."""


def read(source: FileSource | TicketSource, prefix: str) -> Examples:
    """All rows of a source. Ids are the source's own where it names a column, else `prefix` and the row's number.

    Raises DataError for a file that cannot be read, a column that is not there, an empty text or an id given twice.
    """
    if isinstance(source, TicketSource):
        drawn = tickets.generate(source.tickets, source.seed)
        ids = tuple(f"{prefix}-{number}" for number in range(len(drawn)))
        return Examples(ids, tuple(ticket.text for ticket in drawn), tuple(ticket.label for ticket in drawn))
    return _examples(source, prefix, _records(source.path))


def _examples(source: FileSource, prefix: str, records: Iterable[Record]) -> Examples:
    ids: list[str] = []
    texts: list[str] = []
    gold: list[str | None] = []
    for number, (where, columns) in enumerate(records):
        text = _column(source.path, where, columns, source.text)
        if not text or not text.strip():
            raise DataError(f"{source.path}, {where}: the text (column {source.text!r}) is empty; remove the row")
        texts.append(text)
        label = _column(source.path, where, columns, source.label) if source.label else None
        gold.append(label.strip() or None if label else None)
        ids.append((_column(source.path, where, columns, source.id) if source.id else None) or f"{prefix}-{number}")
    if not texts:
        raise DataError(f"{source.path}: no rows")
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise DataError(f"{source.path}: the id {twice!r} (column {source.id!r}) is given twice; ids must differ")
    return Examples(tuple(ids), tuple(texts), tuple(gold))


def _column(path: Path, where: str, columns: Mapping[str, Any], name: str) -> str | None:
    if name not in columns:
        raise DataError(f"{path}, {where}: no column {name!r}; there are {', '.join(map(repr, columns))}")
    value = columns[name]
    if isinstance(value, (dict, list)):
        raise DataError(f"{path}, {where}: expected a text in column {name!r}, got {value!r:.60}")
    text = None if value is None else str(value)
    if text is not None and not _is_unicode(text):
        raise DataError(f"{path}, {where}: column {name!r} holds half a character (a lone surrogate); repair the row")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _records(path: Path) -> Iterator[Record]:
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown kind of file; expected one of {', '.join(readers)}")
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); correct the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); convert the file to UTF-8") from error


def _csv(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for columns in reader:
                where = f"line {reader.line_num}"
                if None in columns or None in columns.values():  # a row too long, or too short
                    raise DataError(f"{path}, {where}: expected {len(reader.fieldnames or [])} columns; quote the text")
                yield where, columns
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _jsonl(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                columns = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(columns, dict):
                raise DataError(f"{path}, line {number}: expected an object, got {type(columns).__name__}")
            yield f"line {number}", columns


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not Parquet ({error})") from error
    number = 0
    for batch in table.iter_batches(batch_size=4096):
        for columns in batch.to_pylist():
            yield f"row {number}", columns
            number += 1
