"""One SQLite file of a run: what was answered and what was paid for, on disk before anything uses it.

Writes that come while another is being committed are committed together, so that durability costs a busy run little.
What the tables hold is known to those who use them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Self

from distill.errors import DistillError
from distill.owned import OwnedFile

Statement = tuple[str, Sequence[Any]]

PATIENCE = 30.0
"""Seconds that a commit waits for another program to let go of the file."""

_REMEDIES = {
    sqlite3.SQLITE_FULL: "make room and run the command again",
    sqlite3.SQLITE_IOERR: "make room, or see to the disk, and run the command again",
    sqlite3.SQLITE_BUSY: "another program has it open; close that, and run the command again",
    sqlite3.SQLITE_CORRUPT: "it is damaged; put a copy of it in its place, or move it away",
    sqlite3.SQLITE_NOTADB: "it is something else; move it away",
}


class Store:
    """Opened by one process at a time; `version` is the schema's. Raises DistillError when it cannot be opened.

    Other users of the machine cannot read it: it holds texts, and what was answered about them.
    """

    def __init__(self, path: Path, schema: str, version: int) -> None:
        self.path = path
        self._file = OwnedFile(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file.take()
            self._writing = _connect(path)
            self._reading = _connect(path)
            self._prepare(schema, version)
        except BlockingIOError as error:
            raise DistillError(f"{path}: another reflux labels in this folder; wait for it, or stop it") from error
        except (OSError, sqlite3.Error, DistillError) as error:
            self._let_go()
            if isinstance(error, DistillError):
                raise
            raise DistillError(f"{path}: the store of answers cannot be opened ({error}); {_remedy(error)}") from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._guard = Lock()
        self._pending: list[tuple[Sequence[Statement], asyncio.Future[None]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit what was handed over, and close the file."""
        self._thread.shutdown(wait=True)
        self._let_go()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Rows of what is committed. Raises DistillError when the file cannot be read."""
        try:
            return self._reading.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise DistillError(f"{self.path}: answers could not be read ({error}); {_remedy(error)}") from error

    def put(self, *statements: Statement) -> asyncio.Future[None]:
        """Hand over statements to be executed, all or none, even if nobody waits.

        The future ends when they are on disk, with DistillError when the disk does not take them.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._guard:
            self._pending.append((statements, done))
            if len(self._pending) == 1:
                self._thread.submit(self._commit_pending)
        return done

    async def write(self, *statements: Statement) -> None:
        """Execute statements, all or none. They are on disk when this returns.

        Raises DistillError when the disk does not take them.
        """
        await self.put(*statements)

    def _prepare(self, schema: str, version: int) -> None:
        """Set the file up, unless it was before. Raises DistillError for one of another schema."""
        self._writing.execute("PRAGMA journal_mode = WAL")
        self._writing.execute("PRAGMA synchronous = FULL")
        ((tables,),) = self._writing.execute("SELECT count(*) FROM sqlite_master").fetchall()
        ((found,),) = self._writing.execute("PRAGMA user_version").fetchall()
        if tables and found != version:
            raise DistillError(
                f"{self.path}: another version of reflux wrote this store of answers (schema {found}, expected "
                f"{version}); use that version, or move the file away"
            )
        self._writing.executescript(f"BEGIN IMMEDIATE; PRAGMA user_version = {version}; {schema} COMMIT;")

    def _commit_pending(self) -> None:
        with self._guard:
            group, self._pending = self._pending, []
        failure: Exception | None = None
        try:
            self._commit([statement for statements, _ in group for statement in statements])
        except Exception as error:  # whatever it was, those who wait must hear of it
            failure = error
        for _, done in group:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                done.get_loop().call_soon_threadsafe(_tell, done, failure)

    def _commit(self, statements: Sequence[Statement]) -> None:
        if not self._file.current:
            raise DistillError(
                f"{self.path}: answers could not be stored (the file was moved away or deleted); put it back, and run "
                "the command again"
            )
        try:
            self._writing.execute("BEGIN IMMEDIATE")
            for sql, parameters in statements:
                self._writing.execute(sql, parameters)
            self._writing.execute("COMMIT")
        except sqlite3.Error as error:
            if self._writing.in_transaction:
                self._writing.execute("ROLLBACK")
            raise DistillError(f"{self.path}: answers could not be stored ({error}); {_remedy(error)}") from error

    def _let_go(self) -> None:
        for name in ("_reading", "_writing"):
            if (connection := getattr(self, name, None)) is not None:
                connection.close()
        self._file.release()


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)


def _tell(done: asyncio.Future[None], failure: Exception | None) -> None:
    """End a write for who waits for it, unless it was cancelled; what it wrote is kept."""
    if done.done():
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


def _remedy(error: Exception) -> str:
    """What to do about an error of the file."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind, the rest its detail
    return _REMEDIES.get(code, "see that it can be written, or move it away")
