"""The budget: money that a teacher may cost in an hour. A token bucket that is asked before each call.

What a call costs is known only afterwards. So a call reserves what calls cost on average, and settles then.
"""

from __future__ import annotations

import time
from collections.abc import Callable

BURST = 0.1
"""Share of an hour's money that may be spent at once; the rest flows in over the hour, so no hour exceeds it."""

MEMORY = 0.05
"""Weight of the latest call in the running mean of what a call costs."""


class Budget:
    """At most `usd_per_hour` in any hour, but for the error of the estimate on calls under way. None: no limit.

    The clock counts seconds. Until a first call was settled, calls are taken to be free.
    """

    def __init__(self, usd_per_hour: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.usd_per_hour = usd_per_hour
        self._clock = clock
        self._capacity = BURST * (usd_per_hour or 0.0)
        self._balance = self._capacity
        self._filled = clock()
        self._estimate: float | None = None

    @property
    def balance(self) -> float | None:
        """What may be spent right now, in USD; None without a limit. Below zero while a debt is worked off."""
        if self.usd_per_hour is None:
            return None
        now = self._clock()
        inflow = (1 - BURST) * self.usd_per_hour * (now - self._filled) / 3600
        self._balance, self._filled = min(self._balance + inflow, self._capacity), now
        return self._balance

    def reserve(self) -> float | None:
        """Set aside the money for a call and return it, or None when there is not enough."""
        cost = self._estimate or 0.0
        balance = self.balance
        if balance is None:
            return cost
        # A call dearer than the whole bucket may go when that is full, or it could never go.
        if balance <= 0 or balance < min(cost, self._capacity):
            return None
        self._balance -= cost
        return cost

    def settle(self, reserved: float, cost_usd: float) -> None:
        """Replace what a call reserved by what it cost."""
        self._balance += reserved - cost_usd
        self._estimate = cost_usd if self._estimate is None else self._estimate + MEMORY * (cost_usd - self._estimate)

    def release(self, reserved: float) -> None:
        """Give back what a call reserved that was not made or not charged."""
        self._balance += reserved
