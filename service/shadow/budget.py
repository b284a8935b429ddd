"""The budget: a token bucket that limits the money spent on the teacher per hour, or per another period.

The cost of a call is known only afterwards, so each call first reserves the average cost and then settles.
"""

from __future__ import annotations

import time
from collections.abc import Callable

BURST = 0.1
"""Share of a period's budget that may be spent at once; the rest refills over the period, so that none exceeds it."""

HOUR, DAY = 3600.0, 86400.0

MEMORY = 0.05
"""Weight of the latest call in the exponential moving average of the cost."""


class Budget:
    """Allows at most `usd` USD in any `period` of seconds, up to the estimation error of calls in flight.

    None allows all. `clock` returns seconds. Until the first call is settled, calls are estimated to be free.
    """

    def __init__(self, usd: float | None, clock: Callable[[], float] = time.monotonic, *, period: float = HOUR) -> None:
        self.usd = usd
        self._clock, self._period = clock, period
        self._capacity = BURST * (usd or 0.0)
        self._balance = self._capacity
        self._filled = clock()
        self._estimate: float | None = None

    @property
    def balance(self) -> float | None:
        """USD that may be spent now, None without a limit. Negative after calls that cost more than their estimate."""
        if self.usd is None:
            return None
        now = self._clock()
        inflow = (1 - BURST) * self.usd * (now - self._filled) / self._period
        self._balance, self._filled = min(self._balance + inflow, self._capacity), now
        return self._balance

    def reserve(self) -> float | None:
        """Reserve the estimated cost of a call and return it; None if the balance is too low."""
        cost = self._estimate or 0.0
        balance = self.balance
        if balance is None:
            return cost
        # A call that costs more than the whole bucket is allowed when the bucket is full, or it never could be.
        if balance <= 0 or balance < min(cost, self._capacity):
            return None
        self._balance -= cost
        return cost

    def settle(self, reserved: float, cost_usd: float) -> None:
        """Replace the reserved amount by the actual cost, and update the estimate."""
        self._balance += reserved - cost_usd
        self._estimate = cost_usd if self._estimate is None else self._estimate + MEMORY * (cost_usd - self._estimate)

    def release(self, reserved: float) -> None:
        """Return the reserved amount of a call that was not made or not charged."""
        self._balance += reserved
