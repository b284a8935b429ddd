"""Rows from files (CSV, JSONL, Parquet) and from the built-in support desk. Errors say where the unusable row is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.data import csv_files, files
from distill.data.columns import Row, no_column, position
from distill.data.splits import Examples
from distill.data.support_desk import tickets
from distill.data.values import is_blank, label_of, spelled
from distill.errors import DataError
from distill.sections import FileSource, TicketSource
from distill.stages import file_digest, fingerprint

_SURROGATE = re.compile("[\ud800-\udfff]")


def read(source: FileSource | TicketSource, prefix: str, *, blanks: bool = False) -> Examples:
    """Read all rows of a source. Ids come from its `id` column if it names one, else from `prefix` and the row number.

    Raises DataError for a file that cannot be read, a missing column, a duplicate id and, unless `blanks` are to be
    kept, a blank text.
    """
    if isinstance(source, TicketSource):
        drawn = tickets.generate(source.tickets, source.seed)
        ids = tuple(f"{prefix}-{number}" for number in range(len(drawn)))
        return Examples(ids, tuple(ticket.text for ticket in drawn), tuple(ticket.label for ticket in drawn))
    return _examples(source, prefix, files.rows(source, _wanted(source), blanks=blanks), blanks=blanks)


def source_digest(source: FileSource | TicketSource) -> str:
    """Digest what determines a source's rows. Raises DataError for a file that cannot be read."""
    if isinstance(source, TicketSource):
        folder = Path(tickets.__file__).parent
        code = [file_digest(file) for file in sorted(folder.iterdir()) if file.suffix in (".json", ".py")]
        return fingerprint([source.model_dump(), code])
    files.refuse_pipe(source.path)
    try:
        settings = source.model_dump(mode="json", exclude={"path"})
        return fingerprint([settings, source.path.suffix.lower(), file_digest(source.path)])
    except OSError as error:
        raise DataError(f"{source.path}: cannot be read ({error.strerror or error}); correct the path") from error


def delimiter_found(source: FileSource) -> str | None:
    """A sentence about the delimiter that was detected in a file, or None if it was given or is the usual one.

    None also for a file that cannot be read; `read` says why.
    """
    if source.path.suffix.lower() not in files.CSV or not source.path.is_file():
        return None
    try:
        found = csv_files.delimiter(source.path, source.delimiter, _wanted(source))
    except (OSError, UnicodeDecodeError, DataError):
        return None
    if not found.found and found.quotes:
        return None
    plain = "" if found.quotes else ", quotes taken literally"
    return f"{source.path}: read with the delimiter {found.character!r}{plain}"


def _wanted(source: FileSource) -> tuple[str, ...]:
    return tuple(name for name in (source.text, source.label, source.id) if name is not None)


def _examples(source: FileSource, prefix: str, rows: Iterable[Row], *, blanks: bool) -> Examples:
    ids: list[str] = []
    texts: list[str] = []
    gold: list[str | None] = []
    wanted = _wanted(source)
    unseen = set(wanted)
    names: tuple[str, ...] = ()
    last: tuple[str, ...] | None = None
    found: dict[str, int] = {}
    for number, (where, names, values) in enumerate(rows):
        at = f"{source.path}, {where}"
        if names != last:  # rows of JSONL may differ in their columns
            found = {name: index for name in wanted if (index := position(names, name, at)) is not None}
            last = names
        cells = {name: _cell(at, name, values[index]) for name, index in found.items()}
        unseen.difference_update(cells)
        if source.text not in cells and not blanks:
            raise no_column(at, source.text, names)
        text = cells.get(source.text) or ""
        if not blanks and is_blank(text):
            raise DataError(f"{at}: the text (column {source.text!r}) is empty; remove the row")
        texts.append(text)
        gold.append(label_of(cells.get(source.label)) if source.label else None)
        ids.append((cells.get(source.id) if source.id else None) or f"{prefix}-{number}")
    if not texts:
        raise DataError(f"{source.path}: no rows")
    if unseen:
        raise no_column(source.path, min(unseen), names)
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise DataError(f"{source.path}: the id {twice!r} (column {source.id!r}) is given twice; ids must differ")
    return Examples(tuple(ids), tuple(texts), tuple(gold))


def _cell(where: str, name: str, value: Any) -> str | None:
    try:
        text = spelled(value)
    except ValueError as error:
        raise DataError(f"{where}: expected a text in column {name!r}, got {error}") from error
    if text is not None and not text.isascii() and _SURROGATE.search(text):
        raise DataError(f"{where}: column {name!r} holds half a character (a lone surrogate); repair the row")
    return text
