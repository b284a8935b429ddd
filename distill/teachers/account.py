"""What a teacher's calls are charged to: the responses that were paid for, and what may still be spent.

This file says what an account is, and holds the one that keeps nothing, for shadowing. The account of a run, which is
on disk, is `distill.labelling.account`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from distill.teachers.errors import TeacherError


class BudgetError(TeacherError):
    """What a call may cost is more than is left."""


@dataclass(frozen=True, slots=True)
class Paid:
    """A response, what it cost in dollars, and how many seconds it took."""

    response: Mapping[str, Any]
    cost_usd: float
    seconds: float


class Account(Protocol):
    """Every call is reserved at the most it can cost before it is made, and settled at what it did cost after it."""

    async def recall(self, key: str) -> Paid | None:
        """The response that was paid for under this key, if one was."""

    async def reserve(self, usd: float) -> int:
        """Set money apart for one call. Gives the reservation, to be settled.

        Waits while calls in flight may give back what it needs. Raises BudgetError when none can.
        """

    async def settle(self, reservation: int, cost_usd: float, key: str = "", paid: Paid | None = None) -> None:
        """End a reservation at what was spent, and keep the response, where there is one, before anyone uses it."""


class NoAccount:
    """Keeps nothing and never refuses: each question is asked anew, and who asks watches the money."""

    async def recall(self, key: str) -> Paid | None:
        """Nothing was kept."""
        return None

    async def reserve(self, usd: float) -> int:
        """There is always enough."""
        return 0

    async def settle(self, reservation: int, cost_usd: float, key: str = "", paid: Paid | None = None) -> None:
        """Nothing is kept."""
