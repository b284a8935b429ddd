"""One SQLite file of a run: what was answered and what was paid for, on disk before anything uses it.

Writes that come while another is being committed are committed together, so that durability costs a busy run little.
What the tables hold is known to those who use them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from distill.errors import DistillError

Statement = tuple[str, Sequence[Any]]


class Store:
    """Opened by one process at a time. Raises DistillError when it cannot be opened."""

    def __init__(self, path: Path, schema: str) -> None:
        self.path = path
        self._lock = FileLock(f"{path}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
            self._writing = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._writing.execute("PRAGMA journal_mode = WAL")
            self._writing.execute("PRAGMA synchronous = FULL")
            self._writing.executescript(schema)
            self._reading = sqlite3.connect(path, isolation_level=None)
        except Timeout as error:
            raise DistillError(f"{path}: another reflux labels in this folder; wait for it, or stop it") from error
        except (OSError, sqlite3.Error) as error:
            self._lock.release()
            raise DistillError(
                f"{path}: the store of answers cannot be opened ({error}); see that it can be written, or move it away"
            ) from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._pending: list[tuple[Sequence[Statement], asyncio.Future[None]]] = []
        self._flush: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, after the commit that is under way."""
        self._thread.shutdown(wait=True)
        self._reading.close()
        self._writing.close()
        self._lock.release()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """What is committed."""
        return self._reading.execute(sql, parameters)

    async def write(self, *statements: Statement) -> None:
        """Execute statements, all or none. They are on disk when this returns.

        Raises DistillError when the disk does not take them.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((statements, done))
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._commit_pending())
        await done

    async def _commit_pending(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            group, self._pending = self._pending, []
            statements = [statement for one, _ in group for statement in one]
            failure: Exception | None = None
            try:
                await loop.run_in_executor(self._thread, self._commit, statements)
            except Exception as error:
                failure = error
            for _, done in group:
                if done.done():
                    continue  # who wrote was cancelled; what it wrote is kept
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)

    def _commit(self, statements: Sequence[Statement]) -> None:
        try:
            self._writing.execute("BEGIN IMMEDIATE")
            for sql, parameters in statements:
                self._writing.execute(sql, parameters)
            self._writing.execute("COMMIT")
        except sqlite3.Error as error:
            if self._writing.in_transaction:
                self._writing.execute("ROLLBACK")
            raise DistillError(
                f"{self.path}: answers could not be stored ({error}); make room and run the command again"
            ) from error
