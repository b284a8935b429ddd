"""One SQLite file of a run, for answers and payments. Its users define the tables.

Group commit: writes that arrive while another is being committed are committed together, so that durability costs a
busy run little.
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
"""Seconds that a commit waits for another program that has locked the file."""

_REMEDIES = {
    sqlite3.SQLITE_FULL: "make room and run the command again",
    sqlite3.SQLITE_IOERR: "make room, or check the disk, and run the command again",
    sqlite3.SQLITE_BUSY: "another program has it open; close that, and run the command again",
    sqlite3.SQLITE_CORRUPT: "it is damaged; put a copy of it in its place, or move it away",
    sqlite3.SQLITE_NOTADB: "it is something else; move it away",
}


class Store:
    """A database that one process opens at a time; `version` is that of `schema`. Raises DistillError on failure.

    Other users of the machine cannot read the file, because it holds texts and their answers.
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
            self._release()
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
        """Commit the pending writes, and close the file."""
        self._thread.shutdown(wait=True)
        self._release()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return committed rows. Raises DistillError when the file cannot be read."""
        try:
            return self._reading.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise DistillError(f"{self.path}: answers could not be read ({error}); {_remedy(error)}") from error

    def put(self, *statements: Statement) -> asyncio.Future[None]:
        """Queue statements to be executed in one transaction, even if nothing awaits the future that this returns.

        The future is done when they are on disk, and has a DistillError when the disk does not take them.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._guard:
            self._pending.append((statements, done))
            if len(self._pending) == 1:
                self._thread.submit(self._commit_pending)
        return done

    async def write(self, *statements: Statement) -> None:
        """Execute statements in one transaction, and return when they are on disk.

        Raises DistillError when the disk does not take them.
        """
        await self.put(*statements)

    def _prepare(self, schema: str, version: int) -> None:
        """Create the tables unless they exist. Raises DistillError if another version of the schema made them."""
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
        except Exception as error:  # the futures must end with it, whatever it is
            failure = error
        for _, done in group:
            with suppress(RuntimeError):  # the event loop is closed
                done.get_loop().call_soon_threadsafe(_end, done, failure)

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

    def _release(self) -> None:
        for name in ("_reading", "_writing"):
            if (connection := getattr(self, name, None)) is not None:
                connection.close()
        self._file.release()


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)


def _end(done: asyncio.Future[None], failure: Exception | None) -> None:
    """End a write's future, unless it was cancelled."""
    if done.done():
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


def _remedy(error: Exception) -> str:
    """Return what to do about an error of the file."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code is its primary code
    return _REMEDIES.get(code, "make it writable, or move it away")
