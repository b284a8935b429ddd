"""CSV files with any delimiter: detect the delimiter and read the rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from distill.data.columns import Row, no_column, position
from distill.errors import DataError

_LONGEST = 2**31 - 1  # characters of a field, the highest limit that the csv module takes on every platform
_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}  # by ending, the usual one first
_SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # a first line that tells Excel the delimiter


@dataclass(frozen=True, slots=True)
class Delimiter:
    """The `character` between fields; `found` if it was detected in the file rather than given or the usual one.

    `skip` lines precede the header. Without `quotes`, a quote is an ordinary character.
    """

    character: str
    found: bool
    skip: int = 0
    quotes: bool = True


def delimiter(path: Path, given: str | None, wanted: Sequence[str]) -> Delimiter:
    """Return the given delimiter, else the first candidate with which the header has all `wanted` columns.

    The usual delimiter for the file's ending is tried first; without `wanted` columns, the one that gives the most is
    taken. Some programs quote fields between tabs and some never do,
    so the rows decide what a quote means there.
    """
    found = _delimiter(path, given, wanted)
    return replace(found, quotes=_has_quotes(path, found)) if found.character == "\t" else found


def _delimiter(path: Path, given: str | None, wanted: Sequence[str]) -> Delimiter:
    with _opened(path) as file:
        line = file.readline()
    separator = _SEPARATOR.fullmatch(line)
    skip = 1 if separator else 0
    if given is not None:
        return Delimiter(given, found=False, skip=skip)
    usual = _DELIMITERS[path.suffix.lower()]
    headers = {character: _header(path, character) for character in usual}
    for character, header in headers.items():
        if wanted and all(position(header, name, path) is not None for name in wanted):
            return Delimiter(character, found=character != usual[0])
    if separator:
        return Delimiter(separator[1], found=separator[1] != usual[0], skip=1)
    # No header has all columns; the error will list those of the header with the most columns.
    best = max(usual, key=lambda character: len(headers[character]))
    return Delimiter(best, found=best != usual[0])


def rows(path: Path, given: str | None, wanted: Sequence[str], *, blanks: bool) -> Iterator[Row]:
    """Yield the rows of a file. With `blanks`, an empty line in a file with one column is a row with an empty cell.

    Raises DataError for a header that lacks a `wanted` column, a row with more or fewer columns than the header, and
    unclosed quotes.
    """
    found = delimiter(path, given, wanted)
    header: tuple[str, ...] = ()
    empty: list[str] = []
    for where, fields in _lines(path, found):
        if not fields:
            if blanks and len(header) == 1:
                empty.append(where)
        elif not header:
            header = tuple(fields)
            for name in wanted:
                if position(header, name, path) is None:
                    raise no_column(f"{path}, {where}", name, header)
        elif len(fields) != len(header):
            columns = f"{len(header)} column{'s' * (len(header) > 1)}"
            raise DataError(
                f"{path}, {where}: expected {columns}, got {len(fields)} with the delimiter {found.character!r}; "
                "quote the field that holds it, or give another `delimiter`"
            )
        else:
            for line in empty:
                yield line, header, ("",)
            empty.clear()
            yield where, header, fields


def _lines(path: Path, found: Delimiter) -> Iterator[tuple[str, list[str]]]:
    """Yield each row with its first line's number; a blank line has no fields."""
    csv.field_size_limit(_LONGEST)
    with _opened(path) as file:
        for _ in range(found.skip):
            file.readline()
        quotes = '"' if found.quotes else None
        reader = csv.reader(file, delimiter=found.character, strict=True, quotechar=quotes)
        begins = found.skip + 1
        try:
            for fields in reader:
                yield f"line {begins}", fields
                begins = found.skip + reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path}, line {begins}: not CSV ({error}) with the delimiter {found.character!r}; "
                "close every quote, and double those within a quoted field"
            ) from error


def _has_quotes(path: Path, found: Delimiter) -> bool:
    """Whether quotes in the file enclose fields.

    They do not if all rows have the same number of columns only without quoting, or if there are more such rows without
    it: a quote that is an ordinary character would join the lines up to the next one.
    """
    quoted, plain = (_whole_rows(path, replace(found, quotes=quotes)) for quotes in (True, False))
    return plain is None or (quoted is not None and quoted >= plain)


def _whole_rows(path: Path, found: Delimiter) -> int | None:
    """Count the rows of a file, or return None if they differ in their number of columns."""
    try:
        columns = [len(fields) for _, fields in _lines(path, found) if fields]
    except DataError:
        return None
    return len(columns) if len(set(columns)) <= 1 else None


def _header(path: Path, character: str) -> tuple[str, ...]:
    """Return the first row that is not blank, or no fields if this delimiter cannot read it."""
    try:
        return next((tuple(fields) for _, fields in _lines(path, Delimiter(character, found=True)) if fields), ())
    except DataError:
        return ()


def _opened(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")
