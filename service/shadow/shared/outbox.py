"""The outbox that many processes share: rows and counts of all of them, in PostgreSQL.

Each process adds what it sampled and counted. Those that ask the teacher take rows by leases: a row whose process died
is asked about by another one when its lease has ended, and only the first outcome of a row counts.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, suppress

from service.monitor.evalues import EDetector
from service.shadow.errors import OutboxError
from service.shadow.history import Changes
from service.shadow.outbox.base import AnyOutbox
from service.shadow.outbox.replay import change_ceilings, load_ceilings, read_detector, replay
from service.shadow.outbox.rows import OutboxRow, PendingRow, Restored, TeacherIdentity
from service.shadow.outbox.sql import Connection
from service.shadow.outbox.tallies import Tallies
from service.shadow.shared.database import Database
from service.shadow.shared.schema import LOCK, check
from service.shadow.shared.state import Mark, SharedState, read_abandoned, read_state
from service.shadow.shared.written import Written
from service.shadow.slots import hour_of
from service.shadow.totals import Floats

COUNT_SECONDS = 1.0
"""How often the pending rows are counted at most."""

LOOK_SECONDS = 30.0
"""How often rows of other versions are looked for at most, by a process whose `/gap` or `/metrics` is asked for."""

TIDY_SECONDS = 60.0
"""How often a process that asks adopts rows of other teachers, folds old slots and stores the e-detector."""

_FREE = "(lease IS NULL OR lease < now())"


class SharedOutbox(AnyOutbox):
    """The rows and counts of one bundle version in `database`, and what this process does with them.

    A process that asks gives its `teacher`, which is the one that answers for the bundle from then on. A row that it
    takes is its own for `lease_seconds`. Without one, counts belong to the teacher of whichever process asks. Of more
    than `most_pending` rows it only matters that there are as many.
    """

    shared = True

    def __init__(
        self,
        database: Database,
        *,
        bundle: str,
        labels: Sequence[str],
        teacher: TeacherIdentity | None,
        keep_text: bool = True,
        lease_seconds: float = 60.0,
        most_pending: int = 10_000,
    ) -> None:
        super().__init__(bundle=bundle, teacher="" if teacher is None else teacher.key, keep_text=keep_text)
        self.writer = uuid.uuid4().hex
        """What tells this process from others, and from its own earlier runs."""
        self._database, self._labels, self._identity = database, tuple(labels), teacher
        self._lease_seconds, self._most_pending = lease_seconds, most_pending
        self._written = Written()
        self._registered = self._leading = self._claimed = False
        self._counted, self._waiting = 0.0, 0
        self._looked, self._abandoned = -math.inf, dict[str, int]()
        self._tidied, self._hour = 0.0, 0
        self._null: Floats | None = None
        database.prepare = self._prepare

    def open(self) -> None:
        """Connect, check the tables, and make this teacher the one that answers, if there is one."""
        with self._transaction():
            self._registered = True

    def close(self) -> None:
        """Leave the rows that were taken to others, and disconnect."""
        if self._claimed:
            with suppress(OutboxError), self._transaction() as connection:
                connection.execute(
                    "UPDATE rows SET owner = NULL, lease = NULL WHERE bundle = ? AND outcome IS NULL AND owner = ?",
                    (self._bundle, self.writer),
                )
        self._database.close()

    def restore(self, hour: int, null: Floats) -> Restored:
        """Adopt pending rows, fold old slots and store the e-detector, now and from time to time.

        Nothing is returned to continue from: this process counts what it does itself, and `SharedView` reads the rest.
        """
        self._null = null
        self._tidy(hour)
        return Restored([], [], [], [], EDetector(null), None)

    def write(self, rows: Sequence[OutboxRow], changes: Changes) -> int:
        """Insert new rows and add the counts without rows, in one transaction; return the number of pending rows."""
        with self._transaction() as connection:
            # Waits for a transaction of this process that an earlier connection may have left.
            (latest,) = connection.execute(
                "INSERT INTO writers (writer, batch) VALUES (?, 0)"
                " ON CONFLICT (writer) DO UPDATE SET seen = now() RETURNING batch",
                (self.writer,),
            ).fetchone()
            teacher = self._answering(connection, " FOR SHARE")  # none can take over until this is stored
            sampled = Counter(row.key for row in rows if self._insert(connection, row, teacher))
            Tallies(self._bundle, teacher).add(connection, self._written.differences(changes, latest), sampled)
            connection.execute("UPDATE writers SET batch = ? WHERE writer = ?", (latest + 1, self.writer))
            if time.monotonic() - self._counted >= COUNT_SECONDS:
                self._waiting, self._counted = self._count_pending(connection), time.monotonic()
        return self._waiting

    def pending(self, limit: int, without: AbstractSet[int] = frozenset()) -> list[PendingRow]:
        """Take the `limit` oldest free rows, except those whose `seq` is in `without`, for `lease_seconds`."""
        if time.monotonic() - self._tidied >= TIDY_SECONDS:
            self._tidy(hour_of(time.time()))
        with self._transaction() as connection:
            taken = connection.execute(
                "UPDATE rows SET owner = ?, lease = now() + ? * interval '1 second' WHERE seq IN"
                " (SELECT seq FROM rows WHERE bundle = ? AND teacher = ? AND outcome IS NULL"
                f" AND {_FREE} AND seq <> ALL(?) ORDER BY seq LIMIT ? FOR UPDATE SKIP LOCKED)"
                " RETURNING seq, id, time, text, probabilities, band, propensity, novel",
                (self.writer, self._lease_seconds, self._bundle, self._teacher, list(without), limit),
            ).fetchall()
        self._claimed = self._claimed or bool(taken)
        return [PendingRow(*row) for row in sorted(taken)]

    def lead(self) -> bool:
        """Return whether this process watches the teacher of the bundle: the first that asks, until it disconnects."""
        with self._transaction() as connection:
            if not self._leading:
                key = f"{self._bundle} {self._teacher}"
                (self._leading,) = connection.execute(
                    "SELECT pg_try_advisory_lock(?, hashtext(?))", (LOCK, key)
                ).fetchone()
        return self._leading

    def tighten(self, since: float, before: Floats, null: Floats) -> EDetector:
        """Replace the ceilings `before` [B] by `null`, unless another process has done so; return the e-detector."""
        with self._transaction() as connection:
            self._hold_order(connection)
            if set_before := load_ceilings(connection, self._bundle, self._teacher):
                return read_detector(connection, self._bundle, self._teacher, set_before[-1][1]).detector
            return change_ceilings(connection, self._bundle, self._teacher, since, before, null)

    def state(self, null: Floats, mark: Mark | None) -> SharedState:
        """Return what all processes have stored, for a bundle with the ceilings `null` [B]; see `read_state`."""
        with self._transaction(writes=False) as connection:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._abandoned, self._looked = read_abandoned(connection, self._bundle), time.monotonic()
            return read_state(connection, self._bundle, null, mark, self._abandoned)

    def _prepare(self, connection: Connection) -> None:
        """Check the tables at each connection, register the bundle, and at the first its teacher."""
        check(connection, self._database.place)
        self._leading = False
        labels = json.dumps(self._labels, ensure_ascii=False)
        insert = "INSERT INTO bundles (version, labels) VALUES (?, ?) ON CONFLICT (version) DO NOTHING"
        connection.execute(insert, (self._bundle, labels))
        if self._identity is not None and not self._registered:
            connection.execute(
                "UPDATE bundles SET teacher = ?, identity = ? WHERE version = ?",
                (self._identity.key, json.dumps(self._identity), self._bundle),
            )

    def _tidy(self, hour: int) -> None:
        """Do what one process must do for all from time to time; it harms nobody if several do."""
        with self._transaction() as connection:
            (answering,) = connection.execute(
                "SELECT teacher FROM bundles WHERE version = ? FOR UPDATE", (self._bundle,)
            ).fetchone()
            if answering == self._teacher:
                tallies = Tallies(self._bundle, self._teacher)
                tallies.adopt(connection, f" AND {_FREE}", " FOR UPDATE")
                tallies.adopt_counts(connection, "")
        if self._null is not None:
            with self._transaction() as connection:
                self._hold_order(connection)
                ceilings = load_ceilings(connection, self._bundle, self._teacher)
                replay(connection, self._bundle, self._teacher, ceilings[-1][1] if ceilings else self._null)
        if hour != self._hour:
            with self._transaction() as connection:
                # In the order in which `finish` needs them, or both would wait for each other.
                connection.execute("LOCK TABLE pairs, tallies IN SHARE ROW EXCLUSIVE MODE")
                Tallies(self._bundle, self._teacher).fold(connection, hour)
                connection.execute("DELETE FROM writers WHERE seen < now() - interval '30 days'")
            self._hour = hour
        self._tidied = time.monotonic()

    def _count_pending(self, connection: Connection) -> int:
        """Count the pending rows, up to the number that matters."""
        few = "SELECT 1 FROM rows WHERE bundle = ? AND outcome IS NULL LIMIT ?"
        (count,) = connection.execute(
            f"SELECT count(*) FROM ({few}) AS few", (self._bundle, self._most_pending)
        ).fetchone()
        return int(count)

    def _transaction(self, *, writes: bool = True) -> AbstractContextManager[Connection]:
        return self._database.transaction(writes=writes)

    def _tallies(self) -> Tallies:
        return Tallies(self._bundle, self._teacher)

    def _next_finished(self, connection: Connection) -> int:
        # The lock on the row holds until the commit, so that outcomes become visible in their order.
        (place,) = connection.execute("UPDATE ends SET last = last + 1 RETURNING last").fetchone()
        return int(place)

    def _hold_order(self, connection: Connection) -> None:
        connection.execute("SELECT last FROM ends FOR UPDATE")

    def _answering(self, connection: Connection, lock: str = "") -> str:
        """Return the teacher that answers for the bundle now, empty until there is one; `lock` is SQL."""
        query = f"SELECT teacher FROM bundles WHERE version = ?{lock}"
        (teacher,) = connection.execute(query, (self._bundle,)).fetchone()
        return str(teacher)
