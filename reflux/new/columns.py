"""The columns of a data file, and a guess at which one holds the texts and which one the labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from distill.data import files
from distill.data.columns import Row
from distill.data.values import is_blank, spelled
from distill.errors import DataError
from distill.sections import FileSource

_MOST_ROWS = 50_000  # to look at
_MOST_LABELS = 1000
_LONGEST_LABEL = 80
_TEXT_NAMES = frozenset(
    "text message body content query question document description utterance comment review ticket sentence".split()
)
_LABEL_NAMES = frozenset("label category class intent topic target sentiment tag".split())
_NUMBER = re.compile(r"[+-]?\d*\.?\d+([eE][+-]?\d+)?")


@dataclass(slots=True)
class Column:
    """What was seen of a column: its cells that are not blank, their characters, words and distinct values.

    `readable` is false if a cell holds what is no text, such as a list.
    """

    name: str
    cells: int = 0
    characters: int = 0
    words: int = 0
    longest: int = 0
    numbers: int = 0
    readable: bool = True
    values: dict[str, int] = field(default_factory=dict)

    def add(self, value: Any) -> None:
        """Count a cell."""
        try:
            text = spelled(value)
        except ValueError:
            self.readable = False
            return
        if text is None or is_blank(text):
            return
        text = text.strip()
        self.cells += 1
        self.characters += len(text)
        self.words += len(text.split())
        self.longest = max(self.longest, len(text))
        self.numbers += bool(_NUMBER.fullmatch(text))
        self.values[text] = self.values.get(text, 0) + 1

    def described(self) -> str:
        """Say in a line what the column holds, with an example."""
        if not self.readable:
            return "no text"
        example = next(iter(self.values), "")
        example = " ".join(example.split())
        shown = example if len(example) <= 50 else f"{example[:50]}…"
        return f"{self.cells:,} cells, {len(self.values):,} different ones, such as “{shown}”"

    @property
    def may_be_text(self) -> bool:
        """Whether it could hold the texts to classify."""
        return self.readable and self.cells > 0 and self.numbers < self.cells / 2

    @property
    def has_short_cells(self) -> bool:
        """Whether its cells are no longer than labels are."""
        return self.readable and self.cells > 0 and self.longest <= _LONGEST_LABEL

    @property
    def may_be_labels(self) -> bool:
        """Whether it could hold labels: few short values, at least some of them more than once."""
        most = min(_MOST_LABELS, max(2, 0.6 * self.cells))
        return self.has_short_cells and 2 <= len(self.values) <= most


def look_at(path: Path, delimiter: str | None = None) -> list[Column]:
    """Read the first rows of a file and return its columns. Raises DataError for a file that cannot be read."""
    columns: dict[str, Column] = {}
    rows = 0
    for _, names, values in _rows(path, delimiter):
        rows += 1
        for name, value in zip(names, values, strict=True):
            columns.setdefault(name, Column(name)).add(value)
    if not rows:
        raise DataError(f"{path}: no rows")
    return list(columns.values())


def guess_text(columns: Sequence[Column]) -> str | None:
    """Return the name of the column with the longest and most varied cells, or None if none looks like texts."""
    candidates = [one for one in columns if one.may_be_text and one.words > one.cells]
    found = max(candidates, key=_like_texts, default=None)
    return None if found is None else found.name


def guess_label(columns: Sequence[Column], text: str) -> str | None:
    """Return the column called `label` or the like, else the only one that looks like one of labels, or None.

    Of columns that look like labels, one with such a word in its name is taken before the others.
    """
    others = [one for one in columns if one.name != text]
    called = [one for one in others if one.name.isalpha() and _is_named(one, _LABEL_NAMES) and one.has_short_cells]
    candidates = [one for one in others if one.may_be_labels]
    named = [one for one in candidates if _is_named(one, _LABEL_NAMES)]
    worded = [one for one in candidates if one.numbers == 0]
    for group in ([one for one in called if one.may_be_labels], called, named, worded):
        if len(group) == 1:
            return group[0].name
    return None


def _rows(path: Path, delimiter: str | None) -> Iterator[Row]:
    source = FileSource(path=path, delimiter=delimiter)
    return islice(files.rows(source, files.text_columns(path), blanks=False), _MOST_ROWS)


def _like_texts(column: Column) -> float:
    """Mean characters of a cell, less if cells repeat, more if the column is named like one of texts."""
    return (1 + _is_named(column, _TEXT_NAMES)) * column.characters / column.cells * len(column.values) / column.cells


def _is_named(column: Column, names: frozenset[str]) -> bool:
    parts = re.split(r"[\W_]+", column.name.lower())
    return not names.isdisjoint({*parts, *(part.removesuffix("s") for part in parts)})
