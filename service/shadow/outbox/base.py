"""What writer, worker and watch need of an outbox, wherever it is: in a file of its own, or in a shared database.

The statements that both stores read alike are here; each adds its connection, and how rows and counts enter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from typing import ClassVar

from service.monitor.evalues import EDetector
from service.shadow.comparison import Comparison
from service.shadow.history import Changes
from service.shadow.outbox.checks import AnchorAnswer, Checks, Repeat, StoredChecks
from service.shadow.outbox.replay import change_ceilings, delete_old, store_left
from service.shadow.outbox.rows import DisagreementRow, OutboxRow, PendingRow, Restored, RowResult
from service.shadow.outbox.sql import Connection
from service.shadow.outbox.tallies import Tallies
from service.shadow.slots import Key, slot_of
from service.shadow.totals import Floats

DELETED_ROWS = 500
"""Rows deleted per transaction, so that others need not wait long for the outbox."""


class AnyOutbox(ABC):
    """The rows and counts of one bundle version and one teacher. Not thread-safe.

    All methods raise OutboxError if the store cannot be used; the next call tries again, so that a store that comes
    back needs no restart. Rows of other bundle versions stay untouched. Without `keep_text`, a text is erased as soon
    as there is an outcome.
    """

    shared: ClassVar[bool]
    """Whether other processes may write to it and ask about its rows too."""

    def __init__(self, *, bundle: str, teacher: str, keep_text: bool) -> None:
        self._bundle, self._teacher, self._keep_text = bundle, teacher, keep_text

    @abstractmethod
    def open(self) -> None:
        """Connect, and check that the store is one of this version."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect. Never raises for a store that is gone."""

    @abstractmethod
    def restore(self, hour: int, null: Floats) -> Restored:
        """Return what earlier processes left, for a bundle with the ceilings `null` [B].

        Old slots are folded, as `slots.folded` says. Rows that are pending for another teacher become this teacher's.
        """

    @abstractmethod
    def write(self, rows: Sequence[OutboxRow], changes: Changes) -> int:
        """Insert new rows, and store the counts without rows, in one transaction. Rows already stored stay.

        Returns how many pending rows the caller does not count itself: of a shared store all, else none.
        """

    @abstractmethod
    def pending(self, limit: int, without: AbstractSet[int] = frozenset()) -> list[PendingRow]:
        """Return at most `limit` rows to ask about, the oldest first, except those whose `seq` is in `without`."""

    @abstractmethod
    def lead(self) -> bool:
        """Return whether this process is the one that watches the teacher; it stays so until it disconnects."""

    def finish(self, seq: int, result: RowResult) -> bool:
        """Store the result of a pending row. Return False if there is no such row."""
        comparison = result.comparison or (None,) * len(Comparison._fields)
        answer = (result.outcome.value, result.answered, result.answer, result.method)
        cost = (result.tokens, result.cost_usd, result.seconds, result.model, result.fingerprint)
        with self._transaction() as connection:
            order = self._next_finished(connection)
            found = connection.execute(
                "UPDATE rows SET outcome = ?, answered = ?, answer = ?, method = ?, agree = ?, kl = ?, js = ?,"
                " student_class = ?, teacher_class = ?, decision_agree = ?, tokens = ?, cost_usd = ?, seconds = ?,"
                " model = ?, fingerprint = ?, finished = ?, text = CASE WHEN ? = 1 THEN text END"
                " WHERE seq = ? AND bundle = ? AND teacher = ? AND outcome IS NULL RETURNING time, band, propensity",
                (*answer, *comparison, *cost, order, self._keep_text, seq, self._bundle, self._teacher),
            ).fetchone()
            if found is not None:
                time, band, propensity = found
                self._tallies().finish(connection, Key(slot_of(time), band, propensity), result)
                Checks(self._bundle, self._teacher).count_model(
                    connection, result.model, result.fingerprint, result.answered
                )
            return found is not None

    def disagreements(self, limit: int) -> list[DisagreementRow]:
        """Return the `limit` newest comparisons in which the teacher chose another class, the newest first."""
        with self._transaction(writes=False) as connection:
            found = connection.execute(
                "SELECT time, text, probabilities, answer, student_class, teacher_class, band FROM rows"
                " WHERE bundle = ? AND agree = 0 AND teacher = ? ORDER BY finished DESC LIMIT ?",
                (self._bundle, self._answering(connection), limit),
            )
            return [DisagreementRow(*row) for row in found]

    def tighten(self, since: float, before: Floats, null: Floats) -> EDetector:
        """Replace the ceilings `before` [B] by `null` for slots from `since` on (Unix seconds); return the e-detector.

        It includes every comparison that is stored.
        """
        with self._transaction() as connection:
            return change_ceilings(connection, self._bundle, self._teacher, since, before, null)

    def remember_left(self, since: float | None) -> None:
        """Store since when the student must leave, in Unix seconds; None if it need not."""
        with self._transaction() as connection:
            store_left(connection, self._bundle, self._answering(connection), since)

    def add_anchor(self, answer: AnchorAnswer) -> None:
        """Store an answer to an anchor."""
        with self._transaction() as connection:
            Checks(self._bundle, self._teacher).add_anchor(connection, answer)

    def add_repeat(self, repeat: Repeat) -> None:
        """Store the second answer to a text."""
        with self._transaction() as connection:
            Checks(self._bundle, self._teacher).add_repeat(connection, repeat)

    def checks(self) -> StoredChecks:
        """Return all answers to anchors, the repeats, and the models that answered."""
        with self._transaction(writes=False) as connection:
            return Checks(self._bundle, self._teacher).load(connection)

    def delete_old(self, before: float) -> bool:
        """Delete some of the rows that were answered before `before` (Unix seconds); return whether there may be more.

        Of all bundle versions and teachers. Counts stay.
        """
        with self._transaction() as connection:
            self._hold_order(connection)
            return delete_old(connection, before, DELETED_ROWS) == DELETED_ROWS

    @abstractmethod
    def _transaction(self, *, writes: bool = True) -> AbstractContextManager[Connection]:
        """Return a transaction; what is read in one without `writes` is of one moment."""

    @abstractmethod
    def _tallies(self) -> Tallies:
        """Return the counts of the bundle and of this teacher."""

    @abstractmethod
    def _next_finished(self, connection: Connection) -> int:
        """Return the place of the next outcome in the order of all outcomes of the store."""

    @abstractmethod
    def _hold_order(self, connection: Connection) -> None:
        """Let no outcome be stored until the transaction ends."""

    def _answering(self, connection: Connection) -> str:
        """Return the teacher whose answers count now."""
        return self._teacher

    def _insert(self, connection: Connection, row: OutboxRow, teacher: str) -> bool:
        """Insert a row that is pending for `teacher`; return False if it is stored already."""
        inserted = connection.execute(
            "INSERT INTO rows (bundle, teacher, id, time, text, probabilities, band, propensity, split, novel)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            (self._bundle, teacher, *row),
        )
        return inserted.rowcount == 1
