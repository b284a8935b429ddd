"""What a report is made of: sections of paragraphs, lists, facts, tables and figures. All text in it is plain.

`markdown` and `html` render the same sections; they alone escape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph. A `verdict` is what a hurried reader takes away, a `warning` is shown as one, a `note` is small."""

    text: str
    kind: Literal["plain", "verdict", "warning", "note"] = "plain"


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of short texts."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Quotes:
    """Numbered texts, each with a line about it."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Fact:
    """A number to remember: `name` says what it is, `note` what it is made of."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Numbers to remember, side by side where there is room."""

    items: Sequence[Fact]


@dataclass(frozen=True, slots=True)
class Table:
    """A header and rows of as many cells. The first `words` columns are words, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure: `plot` draws it on axes of matplotlib, `width` by `height` inches; `name` is the name of its file.

    `alt` says in words what it shows.
    """

    name: str
    alt: str
    plot: Callable[[Any], None] = field(repr=False)
    width: float = 4.6
    height: float = 3.6


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures, side by side where there is room."""

    items: Sequence[Figure]


Block = Paragraph | Bullets | Quotes | Facts | Table | Figures


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report under a title."""

    title: str
    blocks: Sequence[Block]
