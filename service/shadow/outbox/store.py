"""The outbox: sampled texts on disk, pending or with the teacher's answer. SQLite, one process per file.

A row is written before the teacher is asked, and its outcome before it is counted. Each is one transaction with its
count (`tallies`), so that after any crash the file says what was compared. Nothing here depends on asyncio.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from service.monitor.evalues import EDetector
from service.shadow.comparison import Comparison
from service.shadow.history import Changes
from service.shadow.outbox.checks import AnchorAnswer, Checks, Repeat, StoredChecks
from service.shadow.outbox.file import OutboxFile
from service.shadow.outbox.replay import change_ceilings, delete_old, load_ceilings, replay
from service.shadow.outbox.rows import DisagreementRow, OutboxRow, PendingRow, Restored, RowResult
from service.shadow.outbox.tallies import Tallies
from service.shadow.slots import Key, slot_of
from service.shadow.totals import Floats

DELETED_ROWS = 500
"""Rows deleted per transaction, so that others need not wait long for the outbox."""

_NEXT = "1 + max((SELECT coalesce(max(finished), 0) FROM rows), (SELECT coalesce(max(upto), 0) FROM detectors))"


class Outbox(OutboxFile):
    """The rows and counts of one bundle version and one teacher in the file at `path`. Not thread-safe.

    Raises OutboxError as OutboxFile does. Rows of other bundle versions stay untouched. Without `keep_text`, a text is
    erased as soon as there is an outcome.
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
        super().__init__(
            path,
            bundle=bundle,
            labels=labels,
            max_bytes=max_bytes,
            busy_seconds=busy_seconds,
            open_seconds=open_seconds,
        )
        self._teacher, self._keep_text = teacher, keep_text
        self._tallies = Tallies(bundle, teacher)
        self._checks = Checks(bundle, teacher)

    def restore(self, hour: int, null: Floats) -> Restored:
        """Return what earlier processes left, for a bundle with the ceilings `null` [B].

        Old slots are folded, as `slots.folded` says. Rows that are pending for another teacher become this teacher's.
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

    def _forget(self) -> None:
        self._tallies.hour = 0  # the file may not be folded
