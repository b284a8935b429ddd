"""The outbox: sampled texts on disk, pending or with the teacher's answer. SQLite, one process per file.

A row is written before the teacher is asked, and its outcome before it is counted. Each is one transaction with its
count (`tallies`), so that after any crash the file says what was compared. Nothing here depends on asyncio.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from service.shadow.history import Changes
from service.shadow.outbox.base import AnyOutbox
from service.shadow.outbox.file import OutboxFile
from service.shadow.outbox.replay import load_ceilings, load_left, replay
from service.shadow.outbox.rows import OutboxRow, PendingRow, Restored
from service.shadow.outbox.sql import Connection
from service.shadow.outbox.tallies import Tallies
from service.shadow.slots import Key, slot_of
from service.shadow.totals import Floats

_NEXT = "SELECT 1 + max((SELECT coalesce(max(finished), 0) FROM rows), (SELECT coalesce(max(upto), 0) FROM detectors))"


class Outbox(OutboxFile, AnyOutbox):
    """The outbox in the file at `path`; raises OutboxError as OutboxFile does."""

    shared = False

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
        AnyOutbox.__init__(self, bundle=bundle, teacher=teacher, keep_text=keep_text)
        OutboxFile.__init__(
            self,
            path,
            bundle=bundle,
            labels=labels,
            max_bytes=max_bytes,
            busy_seconds=busy_seconds,
            open_seconds=open_seconds,
        )
        self._counts = Tallies(bundle, teacher)

    def restore(self, hour: int, null: Floats) -> Restored:
        """Return what earlier processes left, for a bundle with the ceilings `null` [B]; see `AnyOutbox`."""
        with self._transaction() as connection:
            self._counts.fold(connection, hour)
            self._counts.adopt(connection)
            ceilings = load_ceilings(connection, self._bundle, self._teacher)
            latest = ceilings[-1][1] if ceilings else null
            detector, last, _ = replay(connection, self._bundle, self._teacher, latest)
            query = "SELECT time, band, propensity FROM rows WHERE bundle = ? AND outcome IS NULL AND band < ?"
            found = connection.execute(query, (self._bundle, len(null)))
            pending = [Key(slot_of(time), band, propensity) for time, band, propensity in found]
            left = load_left(connection, self._bundle, self._teacher)
            return Restored(*self._counts.load(connection, len(null)), pending, ceilings, detector, last, left)

    def write(self, rows: Sequence[OutboxRow], changes: Changes) -> int:
        """Insert new rows, and store the counts without rows, in one transaction. Rows already stored stay."""
        with self._transaction() as connection:
            if changes.hour != self._counts.hour:
                self._counts.fold(connection, changes.hour)
            stored = [row for row in rows if self._insert(connection, row, self._teacher)]
            self._counts.sample(connection, Counter(row.key for row in stored))
            self._counts.replace(connection, changes)
        return 0

    def pending(self, limit: int, without: AbstractSet[int] = frozenset()) -> list[PendingRow]:
        """Return the `limit` oldest pending rows, except those whose `seq` is in `without`."""
        with self._transaction(writes=False) as connection:
            found = connection.execute(
                "SELECT seq, id, time, text, probabilities, band, propensity, novel FROM rows"
                " WHERE bundle = ? AND outcome IS NULL ORDER BY seq LIMIT ?",
                (self._bundle, limit + len(without)),
            )
            return [PendingRow(*row) for row in found if row[0] not in without][:limit]

    def lead(self) -> bool:
        """Return True: the file has one process."""
        return True

    def _tallies(self) -> Tallies:
        return self._counts

    def _next_finished(self, connection: Connection) -> int:
        (place,) = connection.execute(_NEXT).fetchone()
        return int(place)

    def _hold_order(self, connection: Connection) -> None:
        pass  # a transaction that writes is alone

    def _forget(self) -> None:
        self._counts.hour = 0  # the file may not be folded
