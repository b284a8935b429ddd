"""The account of open batches: on disk, so that a later process goes on with them and submits nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from distill.teachers.account import PaidResponse


@dataclass(frozen=True, slots=True)
class Batch:
    """A recorded batch of `calls` calls. Without a `vendor_id` it is not known whether it was submitted.

    `place` is its API and model, `version` that of the teacher, and `time` when it was recorded, in seconds since 1970.
    """

    id: str
    place: str
    version: str
    calls: int
    time: float
    vendor_id: str | None = None


@dataclass(frozen=True, slots=True)
class SettledCall:
    """A call of a batch: its key, its cost in dollars, and its response, if it can be used."""

    key: str
    cost_usd: float
    paid: PaidResponse | None


class BatchAccount(Protocol):
    """Stores open batches and their calls. The most that a call may cost is reserved until it is settled."""

    @property
    def left(self) -> float:
        """Dollars that may still be reserved; infinity without a budget."""

    def open(self, place: str) -> Sequence[Batch]:
        """The open batches of an API."""

    def reserved(self, batch: Batch, key: str) -> float | None:
        """Dollars that are reserved for a call of a batch; None if it is settled or not in the batch."""

    def holds(self, key: str) -> bool:
        """Whether a call is in an open batch."""

    async def record(self, batch: Batch, calls: Sequence[tuple[str, float]]) -> None:
        """Open a batch of calls, given by key with the dollars to reserve for each."""

    async def submitted(self, batch: Batch, vendor_id: str) -> Batch:
        """Store the vendor's id of a batch. Returns the batch with it."""

    async def settle(self, batch: Batch, calls: Sequence[SettledCall]) -> None:
        """End the reservations of calls at their cost, and store the responses."""

    async def close(self, batch: Batch, *, charged: bool = False) -> None:
        """Close a batch. Its unsettled calls cost nothing, or all that was reserved if they may be `charged`."""
