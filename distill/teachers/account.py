"""The account that a teacher's calls are charged to: it stores paid responses and enforces the budget.

This file has the protocol, and an account that stores nothing, for shadowing. The account of a run, on disk, is
`distill.labelling.account`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from distill.teachers.errors import TeacherError


class BudgetError(TeacherError):
    """A call may cost more than the budget has left."""


@dataclass(frozen=True, slots=True)
class PaidResponse:
    """A response, its cost in dollars, and how many seconds it took."""

    response: Mapping[str, Any]
    cost_usd: float
    seconds: float


class Account(Protocol):
    """Reserves the most that a call can cost before it is made, and settles its actual cost afterwards."""

    async def recall(self, key: str) -> PaidResponse | None:
        """The stored response with this key, if any."""

    async def reserve(self, usd: float) -> int:
        """Reserve `usd` dollars for one call. Returns the reservation, which must be settled.

        Waits while calls in flight may release enough money. Raises BudgetError if none can.
        """

    async def settle(self, reservation: int, cost_usd: float, key: str = "", paid: PaidResponse | None = None) -> None:
        """End a reservation at `cost_usd`, and store the response, if any, before it is used."""


class NoAccount:
    """Stores nothing and has no budget: every call is made again, and the caller watches the cost."""

    async def recall(self, key: str) -> PaidResponse | None:
        """Find nothing."""
        return None

    async def reserve(self, usd: float) -> int:
        """Reserve nothing."""
        return 0

    async def settle(self, reservation: int, cost_usd: float, key: str = "", paid: PaidResponse | None = None) -> None:
        """Store nothing."""
