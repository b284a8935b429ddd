"""The outbox: sampled texts on disk, pending or with the teacher's answer. SQLite, one process per file.

A row is written before the teacher is asked, and its outcome before it is counted, so that after any crash the rows
themselves say what was compared. Counts without rows (requests, dropped texts) are stored beside them as totals, not
as increments: writing them twice changes nothing. Nothing here depends on asyncio.
"""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from pathlib import Path

from distill.owned import OwnedFile
from service.shadow.errors import OutboxBusyError, OutboxError
from service.shadow.ledger import Totals
from service.shadow.outbox.rows import SCHEMA, TABLES, OutboxRow, PendingRow, RowResult
from service.shadow.outcome import POSITION, Outcome

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

    def write(self, rows: Sequence[OutboxRow], totals: Totals) -> None:
        """Insert new rows and replace the totals that have no rows, in one transaction. Rows already stored stay."""
        tallies = [(self._bundle, self._teacher, *tally) for tally in _tallies(totals)]
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO rows (bundle, id, time, text, probabilities, band, propensity, split)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                [(self._bundle, *row) for row in rows],
            )
            connection.executemany("INSERT OR REPLACE INTO tallies VALUES (?, ?, ?, ?, ?)", tallies)

    def pending(self, limit: int, without: AbstractSet[int] = frozenset()) -> list[PendingRow]:
        """Return the `limit` oldest pending rows, except those whose `seq` is in `without`."""
        with self._transaction("BEGIN") as connection:
            found = connection.execute(
                "SELECT seq, id, time, text, probabilities, band, propensity FROM rows"
                " WHERE bundle = ? AND outcome IS NULL ORDER BY seq LIMIT ?",
                (self._bundle, limit + len(without)),
            )
            return [PendingRow(*row) for row in found if row[0] not in without][:limit]

    def pending_bands(self) -> list[int]:
        """Return the band of every pending row."""
        with self._transaction("BEGIN") as connection:
            query = "SELECT band FROM rows WHERE bundle = ? AND outcome IS NULL"
            return [band for (band,) in connection.execute(query, (self._bundle,))]

    def finish(self, seq: int, result: RowResult) -> bool:
        """Store the result of a pending row. Return False if there is no such row."""
        agree, kl, js = (result.comparison or (None, None, None))[:3]
        answer = (result.outcome, result.answered, result.answer, result.method)
        cost = (result.tokens, result.cost_usd, result.seconds)
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE rows SET outcome = ?, answered = ?, answer = ?, method = ?, agree = ?, kl = ?, js = ?,"
                " tokens = ?, cost_usd = ?, seconds = ?, teacher = ?, text = CASE WHEN ? THEN text END"
                " WHERE seq = ? AND bundle = ? AND outcome IS NULL",
                (*answer, agree, kl, js, *cost, self._teacher, self._keep_text, seq, self._bundle),
            )
            return changed.rowcount == 1

    def totals(self, bands: int) -> Totals:
        """Return all counts so far for this bundle and this teacher; pending rows count as sampled."""
        totals = Totals.zeros(bands)
        with self._transaction("BEGIN") as connection:
            for band, outcome, agree, *sums in connection.execute(_SUMS, (self._bundle, self._teacher)):
                _add_rows(totals, band, outcome, agree, sums)
            query = "SELECT band, name, value FROM tallies WHERE bundle = ? AND teacher = ?"
            for band, name, value in connection.execute(query, (self._bundle, self._teacher)):
                _add_tally(totals, band, name, value)
        return totals

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

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Check that the file is an outbox of this schema, or make it one, and configure the connection."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and application != APPLICATION:
            raise OutboxError(f"{self.path} is another program's database; set shadow.path to another file")
        if tables and schema != SCHEMA:
            raise OutboxError(
                f"{self.path}: schema {schema}, this version reads {SCHEMA}; move the file away, a new one is started"
            )
        connection.execute("PRAGMA journal_mode = WAL")  # readers, such as an export, must not block writes
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA synchronous = FULL")  # answers cost money, and commits are rare
        connection.execute(f"PRAGMA max_page_count = {self.max_bytes // PAGE_BYTES}")
        connection.execute("BEGIN IMMEDIATE")
        if not tables:
            for statement in TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
        labels = json.dumps(self._labels, ensure_ascii=False)
        connection.execute("INSERT OR IGNORE INTO bundles VALUES (?, ?)", (self._bundle, labels))
        connection.execute("COMMIT")


_SUMS = """
SELECT band, outcome, agree, count(*), sum(1 / propensity), sum(1 / propensity / propensity),
       sum(kl), sum(kl * kl), sum(js), sum(js * js), sum(cost_usd), sum(tokens)
FROM rows WHERE bundle = ? AND (outcome IS NULL OR teacher = ?)
GROUP BY band, outcome, agree
"""


def _add_rows(totals: Totals, band: int, outcome: str | None, agree: int | None, sums: Sequence[float | None]) -> None:
    count, weight, weight_sq, kl, kl_sq, js, js_sq, cost_usd, tokens = (value or 0.0 for value in sums)
    totals.sampled[band] += count
    if outcome is None:
        return
    totals.outcomes[band, POSITION[Outcome(outcome)]] += count
    totals.cost_usd[band] += cost_usd
    totals.tokens[band] += tokens
    if outcome != Outcome.COMPLETED:
        return
    totals.weight[band] += weight
    totals.weight_sq[band] += weight_sq
    if agree:
        totals.agreed[band] += count
    else:
        totals.disagreed[band] += count
        totals.disagree_weight[band] += weight
    totals.kl[band] += kl
    totals.kl_sq[band] += kl_sq
    totals.js[band] += js
    totals.js_sq[band] += js_sq


def _add_tally(totals: Totals, band: int, name: str, value: float) -> None:
    if name in ("requests", "expected"):
        getattr(totals, name)[band] += value
    else:
        column = POSITION[Outcome(name)]
        totals.sampled[band] += value
        totals.outcomes[band, column] += value
        totals.lost[band, column] += value


def _tallies(totals: Totals) -> Iterator[tuple[int, str, float]]:
    """Yield band, name and value of every count that has no rows."""
    for band in range(len(totals.requests)):
        yield band, "requests", float(totals.requests[band])
        yield band, "expected", float(totals.expected[band])
        for outcome, column in POSITION.items():
            if totals.lost[band, column]:
                yield band, str(outcome), float(totals.lost[band, column])
