"""The open batches of a run, on disk beside the account they are charged to.

A call is recorded before its batch is submitted. It is removed in the transaction that stores its result and its cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distill.labelling.account import StoredAccount
from distill.labelling.sqlite_store import Statement, Store
from distill.teachers.batch.account import Batch, SettledCall

_ROWS = "SELECT id, place, version, calls, time, vendor_id FROM batches WHERE place = ? ORDER BY time"
_ALL = "SELECT coalesce(sum(usd), 0.0) FROM batch_calls"
_LEFT = f"{_ALL} WHERE batch = ?"


class StoredBatchAccount:
    """Open batches in the store of a run. Every method that writes raises DistillError when the disk fails."""

    def __init__(self, store: Store, account: StoredAccount) -> None:
        self._store = store
        self._account = account

    @property
    def left(self) -> float:
        """Dollars that may still be reserved; infinity if there is no limit."""
        return self._account.left

    def open(self, place: str) -> Sequence[Batch]:
        """List the open batches at an API, oldest first."""
        return [Batch(*row) for row in self._store.read(_ROWS, (place,))]

    def reserved(self, batch: Batch, key: str) -> float | None:
        """Dollars reserved for a call of a batch, or None if the call is settled or not in the batch."""
        sql = "SELECT usd FROM batch_calls WHERE key = ? AND batch = ?"
        for (usd,) in self._store.read(sql, (key, batch.id)):
            return float(usd)
        return None

    def holds(self, key: str) -> bool:
        """Whether a call is in an open batch."""
        return bool(self._store.read("SELECT 1 FROM batch_calls WHERE key = ?", (key,)))

    async def record(self, batch: Batch, calls: Sequence[tuple[str, float]]) -> None:
        """Open a batch of `calls`, each a key and the most it may cost in dollars."""
        statements: list[Statement] = [
            (
                "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?)",
                (batch.id, batch.place, batch.version, batch.calls, batch.time, batch.vendor_id),
            )
        ]
        statements += [("INSERT INTO batch_calls VALUES (?, ?, ?)", (key, batch.id, usd)) for key, usd in calls]
        await self._store.write(*statements)
        self._account.batched += sum(usd for _, usd in calls)

    async def submitted(self, batch: Batch, vendor_id: str) -> Batch:
        """Record that a batch was submitted, and return it with the vendor's id."""
        await self._store.write(("UPDATE batches SET vendor_id = ? WHERE id = ?", (vendor_id, batch.id)))
        return replace(batch, vendor_id=vendor_id)

    async def settle(self, batch: Batch, calls: Sequence[SettledCall]) -> None:
        """Replace the reservations of calls by their actual costs, and store the responses."""
        reserved = sum(self.reserved(batch, call.key) or 0.0 for call in calls)
        statements: list[Statement] = []
        for call in calls:
            statements.append(("DELETE FROM batch_calls WHERE key = ? AND batch = ?", (call.key, batch.id)))
            statements += self._account.charge(call.cost_usd, call.key, call.paid)
        await self._store.write(*statements)
        self._account.batched -= reserved
        self._account.spent += sum(call.cost_usd for call in calls)

    async def close(self, batch: Batch, *, charged: bool = False) -> None:
        """Close a batch. Calls without a result cost nothing, or their whole reservation if they may be `charged`."""
        ((left,),) = self._store.read(_LEFT, (batch.id,))
        await self._store.write(
            *self._account.charge(left if charged else 0.0),
            ("DELETE FROM batch_calls WHERE batch = ?", (batch.id,)),
            ("DELETE FROM batches WHERE id = ?", (batch.id,)),
        )
        ((self._account.batched,),) = self._store.read(_ALL)  # without rounding errors
        self._account.spent += left if charged else 0.0
