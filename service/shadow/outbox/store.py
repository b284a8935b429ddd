"""The outbox: sampled texts on disk, pending or with the teacher's answer. SQLite, one process per file.

A row is written before the teacher is asked, and its outcome before it is counted. Each is one transaction with its
count (`tallies`), so that after any crash the file says what was compared. Nothing here depends on asyncio.
"""

from __future__ import annotations

import errno
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from pathlib import Path

from distill.owned import OwnedFile
from service.monitor.evalues import EDetector
from service.shadow.comparison import Comparison
from service.shadow.errors import OutboxBusyError, OutboxError
from service.shadow.history import Changes, Floats, Key, slot_of
from service.shadow.outbox.checks import AnchorAnswer, Checks, Repeat, StoredChecks
from service.shadow.outbox.migration import migrate
from service.shadow.outbox.replay import change_ceilings, delete_old, load_ceilings, replay
from service.shadow.outbox.rows import DisagreementRow, OutboxRow, PendingRow, Restored, RowResult
from service.shadow.outbox.tables import SCHEMA, TABLES_1, TABLES_2
from service.shadow.outbox.tallies import Tallies

APPLICATION = 0x5265666C
"""SQLite's application id: "Refl" in the header of the file."""

PAGE_BYTES = 4096
DELETED_ROWS = 500
"""Rows deleted per transaction, so that others need not wait long for the outbox."""

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
_NEXT = "1 + max((SELECT coalesce(max(finished), 0) FROM rows), (SELECT coalesce(max(upto), 0) FROM detectors))"
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")


class Outbox:
    """The rows of one bundle version and one teacher in the file at `path`. Not thread-safe.

    All methods raise OutboxError if the file cannot be used; the next call opens it again, so that a repaired disk
    needs no restart. If another program locks the file they wait `busy_seconds`, and `open` waits `open_seconds`. Rows
    of other bundle versions stay untouched. Other users of the machine cannot read the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        bundle: str,
        labels: Sequence[str],
        teacher: str,
        keep_text: bool = True,
        max_bytes: int = 2 * 2**30,
        busy_seconds: float = 1.0,
        open_seconds: float = 10.0,
    ) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._bundle, self._labels, self._teacher = bundle, tuple(labels), teacher
        self._keep_text = keep_text
        self._busy_seconds, self._open_seconds = busy_seconds, open_seconds
        self._connection: sqlite3.Connection | None = None
        self._file = OwnedFile(path)
        self._tallies = Tallies(bundle, teacher)
        self._checks = Checks(bundle, teacher)

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

    def restore(self, hour: int, null: Floats) -> Restored:
        """Return what earlier processes left, for a bundle with the ceilings `null` [B].

        Old slots are folded, as `history.folded` says. Rows that are pending for another teacher become this teacher's.
        """
        with self._transaction() as connection:
            self._tallies.fold(connection, hour)
            self._tallies.adopt(connection)
            ceilings = load_ceilings(connection, self._bundle, self._teacher)
            latest = ceilings[-1][1] if ceilings else null
            detector, last = replay(connection, self._bundle, self._teacher, latest)
            query = "SELECT time, band, propensity FROM rows WHERE bundle = ? AND outcome IS NULL AND band < ?"
            found = connection.execute(query, (self._bundle, len(null)))
            pending = [Key(slot_of(time), band, propensity) for time, band, propensity in found]
            return Restored(*self._tallies.load(connection, len(null)), pending, ceilings, detector, last)

    def write(self, rows: Sequence[OutboxRow], changes: Changes) -> None:
        """Insert new rows, and store the counts without rows, in one transaction. Rows already stored stay."""
        with self._transaction() as connection:
            if changes.hour != self._tallies.hour:
                self._tallies.fold(connection, changes.hour)
            stored = [row for row in rows if self._insert(connection, row)]
            self._tallies.sample(connection, Counter(row.key for row in stored))
            self._tallies.replace(connection, changes)

    def pending(self, limit: int, without: AbstractSet[int] = frozenset()) -> list[PendingRow]:
        """Return the `limit` oldest pending rows, except those whose `seq` is in `without`."""
        with self._transaction("BEGIN") as connection:
            found = connection.execute(
                "SELECT seq, id, time, text, probabilities, band, propensity, novel FROM rows"
                " WHERE bundle = ? AND outcome IS NULL ORDER BY seq LIMIT ?",
                (self._bundle, limit + len(without)),
            )
            return [PendingRow(*row) for row in found if row[0] not in without][:limit]

    def disagreements(self, limit: int) -> list[DisagreementRow]:
        """Return the `limit` newest comparisons in which this teacher chose another class, the newest first."""
        with self._transaction("BEGIN") as connection:
            found = connection.execute(
                "SELECT time, text, probabilities, answer, student_class, teacher_class, band FROM rows"
                " WHERE bundle = ? AND agree = 0 AND teacher = ? ORDER BY finished DESC LIMIT ?",
                (self._bundle, self._teacher, limit),
            )
            return [DisagreementRow(*row) for row in found]

    def finish(self, seq: int, result: RowResult) -> bool:
        """Store the result of a pending row. Return False if there is no such row."""
        comparison = result.comparison or (None,) * len(Comparison._fields)
        answer = (result.outcome, result.answered, result.answer, result.method)
        cost = (result.tokens, result.cost_usd, result.seconds, result.model, result.fingerprint)
        with self._transaction() as connection:
            found = connection.execute(
                "UPDATE rows SET outcome = ?, answered = ?, answer = ?, method = ?, agree = ?, kl = ?, js = ?,"
                " student_class = ?, teacher_class = ?, decision_agree = ?, tokens = ?, cost_usd = ?, seconds = ?,"
                " model = ?, fingerprint = ?, teacher = ?, text = CASE WHEN ? THEN text END,"
                f" finished = {_NEXT}"
                " WHERE seq = ? AND bundle = ? AND outcome IS NULL RETURNING time, band, propensity",
                (*answer, *comparison, *cost, self._teacher, self._keep_text, seq, self._bundle),
            ).fetchone()
            if found is not None:
                time, band, propensity = found
                self._tallies.finish(connection, Key(slot_of(time), band, propensity), result)
                self._checks.count_model(connection, result.model, result.fingerprint, result.answered)
            return found is not None

    def tighten(self, since: float, before: Floats, null: Floats) -> EDetector:
        """Replace the ceilings `before` [B] by `null` for slots from `since` on (Unix seconds); return the e-detector.

        It includes every comparison that is stored.
        """
        with self._transaction() as connection:
            return change_ceilings(connection, self._bundle, self._teacher, since, before, null)

    def add_anchor(self, answer: AnchorAnswer) -> None:
        """Store an answer to an anchor."""
        with self._transaction() as connection:
            self._checks.add_anchor(connection, answer)

    def add_repeat(self, repeat: Repeat) -> None:
        """Store the second answer to a text."""
        with self._transaction() as connection:
            self._checks.add_repeat(connection, repeat)

    def checks(self) -> StoredChecks:
        """Return all answers to anchors, the repeats, and the models that answered."""
        with self._transaction("BEGIN") as connection:
            return self._checks.load(connection)

    def delete_old(self, before: float) -> bool:
        """Delete some of the rows that were answered before `before` (Unix seconds); return whether there may be more.

        Of all bundle versions and teachers. Counts stay.
        """
        with self._transaction() as connection:
            return delete_old(connection, before, DELETED_ROWS) == DELETED_ROWS

    def _insert(self, connection: sqlite3.Connection, row: OutboxRow) -> bool:
        inserted = connection.execute(
            "INSERT INTO rows (bundle, teacher, id, time, text, probabilities, band, propensity, split, novel)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            (self._bundle, self._teacher, *row),
        )
        return inserted.rowcount == 1

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
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        with self._translated_errors():
            connection = self._connected()
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                self._tallies.hour = 0  # the file may not be folded
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

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        self._tallies.hour = 0  # the next file may not be folded

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Check that the file is an outbox of this schema, or make it one, and configure the connection."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and application != APPLICATION:
            raise OutboxError(f"{self.path} is another program's database; set shadow.path to another file")
        if tables and schema not in (1, SCHEMA):
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
        elif schema == 1:
            migrate(connection)
        labels = json.dumps(self._labels, ensure_ascii=False)
        connection.execute("INSERT OR IGNORE INTO bundles VALUES (?, ?)", (self._bundle, labels))
        connection.execute("COMMIT")
