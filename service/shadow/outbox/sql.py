"""What the SQL of the outbox needs of a connection: sqlite3's has it, and `shared.database` gives psycopg's the same.

Statements are written once where SQLite and PostgreSQL read them alike, with `?` for parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol


class Result(Protocol):
    """The rows of a statement."""

    @property
    def rowcount(self) -> int:
        """Number of rows inserted, updated or deleted."""

    def fetchone(self) -> Any:
        """Return the next row as a tuple, None after the last."""

    def fetchall(self) -> list[Any]:
        """Return the remaining rows as tuples."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the remaining rows."""


class Connection(Protocol):
    """A connection within a transaction."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Result:
        """Run a statement with a parameter for each `?`."""

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Any:
        """Run a statement once for each sequence of parameters."""
