"""Columns of a row, found by their names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from distill.errors import DataError

Row = tuple[str, tuple[str, ...], Sequence[Any]]
"""The place of a row (`line 7`), the names of its columns, and their values."""


def position(names: tuple[str, ...], name: str, where: object) -> int | None:
    """Return the index of a column, or None. Spaces around a column's name are ignored unless `name` has them.

    Raises DataError, beginning with `where`, if two columns have the name.
    """
    found = _positions(names, name)
    if len(found) > 1:
        raise DataError(f"{where}: two columns are named {name!r}; rename or remove one")
    return found[0] if found else None


def no_column(where: object, name: str, names: Sequence[str]) -> DataError:
    """Return the error for a missing column."""
    return DataError(f"{where}: no column {name!r}; there are {', '.join(map(repr, names))}")


@lru_cache(maxsize=256)
def _positions(names: tuple[str, ...], name: str) -> list[int]:
    exact = [index for index, other in enumerate(names) if other == name]
    return exact or [index for index, other in enumerate(names) if other.strip(" \t\r\n\xa0\ufeff") == name]
