"""The file of the outbox: made or converted, locked, checked, and its errors said with their remedy. SQLite."""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from distill.owned import OwnedFile
from service.shadow.errors import OutboxBusyError, OutboxError
from service.shadow.outbox.migration import migrate
from service.shadow.outbox.tables import SCHEMA, TABLES_1, TABLES_2

APPLICATION = 0x5265666C
"""SQLite's application id: "Refl" in the header of the file."""

PAGE_BYTES = 4096
CACHE_KIB = 512
"""SQLite's page cache, whose default would grow with the outbox to about 4 MB."""

_REMEDIES = {
    "SQLITE_FULL": "free disk space or raise shadow.max_bytes",
    "SQLITE_BUSY": "another program holds a lock on it; end that program",
    "SQLITE_LOCKED": "another program holds a lock on it; end that program",
    "NO_FILE": "set shadow.path to a file",
    "SQLITE_CANTOPEN": "make its directory writable for this process",
    "SQLITE_READONLY": "make the file and its directory writable for this process",
    "SQLITE_CORRUPT": "move the file away, a new one is started; `sqlite3 FILE .recover` saves what can be saved",
    "SQLITE_NOTADB": "move the file away, or set shadow.path to another one",
}
_ERRNO = {
    errno.ENOSPC: "SQLITE_FULL",
    errno.EDQUOT: "SQLITE_FULL",
    errno.EACCES: "SQLITE_READONLY",
    errno.EINVAL: "NO_FILE",
    errno.EISDIR: "NO_FILE",
}
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")


class OutboxFile:
    """An outbox file at `path`, in which bundle version `bundle` has its `labels`. Not thread-safe.

    All methods raise OutboxError if the file cannot be used; the next call opens it again, so that a repaired disk
    needs no restart. If another program locks the file they wait `busy_seconds`, and `open` waits `open_seconds`. Other
    users of the machine cannot read the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        bundle: str,
        labels: Sequence[str],
        max_bytes: int = 2 * 2**30,
        busy_seconds: float = 1.0,
        open_seconds: float = 10.0,
    ) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._bundle, self._labels = bundle, tuple(labels)
        self._busy_seconds, self._open_seconds = busy_seconds, open_seconds
        self._connection: sqlite3.Connection | None = None
        self._file = OwnedFile(path)

    def open(self) -> None:
        """Lock the file for this process, and create its tables if it is new."""
        try:
            with self._translated_errors():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                connection = self._connected(self._open_seconds)
                connection.execute(f"PRAGMA busy_timeout = {int(1000 * self._busy_seconds)}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file and release its lock."""
        self._disconnect()
        self._file.release()

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raise OutboxError for every error of SQLite or of the file system, and disconnect."""
        try:
            yield
        except BlockingIOError as error:
            raise OutboxError(
                f"{self.path}: another process uses this outbox; give each process a shadow.path of its own"
            ) from error
        except sqlite3.Error as error:
            self._disconnect()
            raise self._outbox_error(error, getattr(error, "sqlite_errorname", "")) from error
        except OSError as error:  # while opening or creating the file
            self._disconnect()
            raise self._outbox_error(error, _ERRNO.get(error.errno or 0, "SQLITE_CANTOPEN")) from error

    def _outbox_error(self, error: Exception, name: str) -> OutboxError:
        """Return the error to raise for one with this SQLite error `name`."""
        remedy = next((text for start, text in _REMEDIES.items() if name.startswith(start)), "check the disk")
        kind = OutboxBusyError if name.startswith(_BUSY) else OutboxError
        return kind(f"the shadow outbox {self.path}: {error}; {remedy}")

    @contextmanager
    def _transaction(self, *, writes: bool = True) -> Iterator[sqlite3.Connection]:
        with self._translated_errors():
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                self._forget()
                with suppress(sqlite3.Error):  # the first error is what matters
                    connection.execute("ROLLBACK")
                raise

    def _connected(self, busy_seconds: float | None = None) -> sqlite3.Connection:
        """Return the connection; open one if there is none, or if the file at the path was replaced."""
        if self._connection is not None and not self._file.current:
            self._disconnect()
        if self._connection is None:
            self._file.take()
            seconds = self._busy_seconds if busy_seconds is None else busy_seconds
            connection = sqlite3.connect(self.path, timeout=seconds, isolation_level=None)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _forget(self) -> None:
        """Forget what is known of the file's content: a change was taken back, or the next file may be another."""

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        self._forget()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Check that the file is an outbox of this schema, or make it one, and configure the connection."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and application != APPLICATION:
            raise OutboxError(f"{self.path} is another program's database; set shadow.path to another file")
        if tables and not 1 <= schema <= SCHEMA:
            raise OutboxError(
                f"{self.path}: schema {schema}, this version reads {SCHEMA}; move the file away, a new one is started"
            )
        connection.execute("PRAGMA journal_mode = WAL")  # readers, such as an export, must not block writes
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA synchronous = FULL")  # answers cost money, and commits are rare
        connection.execute(f"PRAGMA max_page_count = {self.max_bytes // PAGE_BYTES}")
        connection.execute("BEGIN IMMEDIATE")
        if not tables:
            for statement in (*TABLES_1, *TABLES_2):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
        elif schema < SCHEMA:
            migrate(connection, schema)
        labels = json.dumps(self._labels, ensure_ascii=False)
        connection.execute("INSERT OR IGNORE INTO bundles VALUES (?, ?)", (self._bundle, labels))
        connection.execute("COMMIT")
