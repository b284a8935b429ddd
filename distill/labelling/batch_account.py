"""The ledger of batches on disk, beside the account that they are charged to: which are open, and what they may cost.

A call is in it from before its batch is submitted until its result is kept, in one transaction with the money.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distill.labelling.account import Cashbook
from distill.labelling.sqlite_store import Statement, Store
from distill.teachers.batch.runner import Batch, Settled

_ROWS = "SELECT id, place, version, calls, time, vendor_id FROM batches WHERE place = ? ORDER BY time"
_ALL = "SELECT coalesce(sum(usd), 0.0) FROM batch_calls"
_LEFT = f"{_ALL} WHERE batch = ?"


class Batchbook:
    """Open batches in the store of a run. Raises DistillError where the disk does not take what it is given."""

    def __init__(self, store: Store, cashbook: Cashbook) -> None:
        self._store = store
        self._cashbook = cashbook

    @property
    def left(self) -> float:
        """Dollars that may still be reserved; infinity where there is no bound."""
        return self._cashbook.left

    def open(self, place: str) -> Sequence[Batch]:
        """The open batches of an API, the oldest first."""
        return [Batch(*row) for row in self._store.read(_ROWS, (place,))]

    def reserved(self, batch: Batch, key: str) -> float | None:
        """What is reserved for a call of a batch; None for one that is settled, or not of the batch."""
        sql = "SELECT usd FROM batch_calls WHERE key = ? AND batch = ?"
        for (usd,) in self._store.read(sql, (key, batch.id)):
            return float(usd)
        return None

    def holds(self, key: str) -> bool:
        """Whether a call is in an open batch."""
        return bool(self._store.read("SELECT 1 FROM batch_calls WHERE key = ?", (key,)))

    async def record(self, batch: Batch, calls: Sequence[tuple[str, float]]) -> None:
        """Open a batch of calls, by key, with what each may cost in dollars."""
        statements: list[Statement] = [
            (
                "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?)",
                (batch.id, batch.place, batch.version, batch.calls, batch.time, batch.vendor_id),
            )
        ]
        statements += [("INSERT INTO batch_calls VALUES (?, ?, ?)", (key, batch.id, usd)) for key, usd in calls]
        await self._store.write(*statements)
        self._cashbook.batched += sum(usd for _, usd in calls)

    async def submitted(self, batch: Batch, vendor_id: str) -> Batch:
        """The batch, now known to have been submitted."""
        await self._store.write(("UPDATE batches SET vendor_id = ? WHERE id = ?", (vendor_id, batch.id)))
        return replace(batch, vendor_id=vendor_id)

    async def settle(self, batch: Batch, calls: Sequence[Settled]) -> None:
        """End the reservations of calls at what they cost, and keep the responses."""
        reserved = sum(self.reserved(batch, call.key) or 0.0 for call in calls)
        statements: list[Statement] = []
        for call in calls:
            statements.append(("DELETE FROM batch_calls WHERE key = ? AND batch = ?", (call.key, batch.id)))
            statements += self._cashbook.charge(call.cost_usd, call.key, call.paid)
        await self._store.write(*statements)
        self._cashbook.batched -= reserved
        self._cashbook.spent += sum(call.cost_usd for call in calls)

    async def close(self, batch: Batch, *, charged: bool = False) -> None:
        """End a batch. Its calls that are left cost nothing, or all that was reserved, where they may be `charged`."""
        ((left,),) = self._store.read(_LEFT, (batch.id,))
        await self._store.write(
            *self._cashbook.charge(left if charged else 0.0),
            ("DELETE FROM batch_calls WHERE batch = ?", (batch.id,)),
            ("DELETE FROM batches WHERE id = ?", (batch.id,)),
        )
        ((self._cashbook.batched,),) = self._store.read(_ALL)  # as it is, and not as it was rounded
        self._cashbook.spent += left if charged else 0.0
