"""Decide whether new texts would be answered in time, before any work is done for them.

It reads the queue, the cost of the runs so far and when the current runs began, and changes none of them. It belongs on
the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.inference.batching import Limits
from service.inference.cost_model import Cost, whole_seconds
from service.inference.queue import Queue
from service.inference.types import Refusal

_SAFETY_SPREADS = 4
"""Safety margin on predicted waits, in root mean square deviations of runs.

A queue that is shorter than necessary loses no answer; one that is too long loses all of them.
"""


class Admission:
    """Refuses texts that exceed `queue_limit` waiting texts or cannot be answered in time.

    `busy_since` has, for each thread that runs the graph, when its current run began; None while it is idle.
    """

    def __init__(
        self, queue: Queue, cost: Cost, limits: Limits, queue_limit: int, busy_since: Sequence[float | None]
    ) -> None:
        self.queue_limit = queue_limit
        self._queue = queue
        self._cost = cost
        self._limits = limits
        self._busy_since = busy_since
        self.loop_busy_since: float | None = None
        """When the latest run on the event loop began, while another follows: new texts may have waited since then."""

    def refusal(self, count: int, tokens: int, deadline: float, now: float) -> Refusal | None:
        """Return why `count` texts of `tokens` in total are not answered by `deadline`; None when they will be."""
        waiting = len(self._queue.items)
        seconds = self._predict(waiting + count, self._queue.tokens + tokens)
        # A machine that is slow now is slow for the runs before this one too.
        seconds *= 1 + _SAFETY_SPREADS * self._cost.spread
        if self.loop_busy_since is not None:
            seconds += now - self.loop_busy_since
        if waiting + count > self.queue_limit:
            again = whole_seconds(seconds)
            message = f"{waiting} texts are waiting and {count} more exceed the limit of {self.queue_limit}"
        elif now + seconds > deadline:
            again = whole_seconds(now + seconds - deadline)
            left = max(0.0, deadline - now) * 1000
            message = f"an answer may take {seconds * 1000:.0f} ms, more than the {left:.0f} ms that are left"
        else:
            return None
        return Refusal(f"{message}; try again in {again} s", again)

    def _predict(self, texts: int, tokens: int) -> float:
        """Predict the seconds until `texts` with `tokens` in total are answered, after the runs that are under way."""
        limits, shared = self._limits, len(self._busy_since)
        runs = min(texts, max(-(-texts // limits.rows), -(-tokens // limits.tokens)))
        if None in self._busy_since:
            return self._cost.seconds(tokens / shared, runs / shared)
        # The current runs may have just begun.
        return self._cost.seconds(tokens / shared + min(limits.tokens, tokens), runs / shared + 1)
