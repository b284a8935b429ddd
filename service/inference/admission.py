"""Whether texts that come now would be answered in time: a decision before any work is done for them.

What waits, what the runs so far have cost, and since when they last; it changes none of that. The event loop's alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from service.inference.batching import Limits
from service.inference.cost_model import Cost, whole_seconds
from service.inference.queue import Waiting
from service.inference.runner import Refusal

_SPREADS = 4
"""So many times the spread of runs is a wait foretold to be longer than it should be.

A queue that is shorter than it could be loses no answer, one that is too long loses all of them.
"""

_MOST_KNOWN = 64


class Admission:
    """Refuses what finds no place among `queue_limit` waiting texts, or no time.

    `busy_since` has for each of those who run the graph when their run began, None while they have none.
    """

    def __init__(
        self, waiting: Waiting, cost: Cost, limits: Limits, queue_limit: int, busy_since: Sequence[float | None]
    ) -> None:
        self._waiting = waiting
        self._cost = cost
        self._limits = limits
        self._queue_limit = queue_limit
        self._busy_since = busy_since
        self.turned: float | None = None
        """When the last run on the event loop began, as long as there is a next: what comes may be as old."""

        self._known: dict[float | None, Refusal] = {}
        """What `usual` says, until the queue is another."""

        self._changes = -1

    def refusal(self, count: int, tokens: int, deadline: float, now: float) -> Refusal | None:
        """Why so many texts, of so many tokens, get no answer until `deadline`; None when they will."""
        waiting = len(self._waiting)
        if deadline == math.inf and waiting + count <= self._queue_limit:
            return None
        seconds = self._predict(waiting + count, self._waiting.tokens + tokens)
        # A machine that is slow now stays so for the runs before this one: what is accepted is to be in time.
        seconds *= 1 + _SPREADS * self._cost.spread
        if self.turned is not None:
            seconds += now - self.turned
        if waiting + count > self._queue_limit:
            again = whole_seconds(seconds)
            message = f"{waiting} texts are waiting and {count} more exceed the limit of {self._queue_limit}"
        elif now + seconds > deadline:
            again = whole_seconds(now + seconds - deadline)
            left = max(0.0, deadline - now) * 1000
            message = f"an answer may take {seconds * 1000:.0f} ms, more than the {left:.0f} ms that are left"
        else:
            return None
        return Refusal(f"{message}; try again in {again} s", again)

    def usual(self, seconds: float | None) -> Refusal | None:
        """Why a text as long as those that wait gets no answer within so many seconds, None being any time."""
        waiting = len(self._waiting)
        if not waiting:
            return None
        if self._changes != self._waiting.changes or self.turned is not None:
            self._known.clear()
            self._changes = self._waiting.changes
        refusal = self._known.get(seconds)
        if refusal is None:
            now = time.monotonic()
            deadline = math.inf if seconds is None else now + seconds
            refusal = self.refusal(1, self._waiting.tokens // waiting, deadline, now)
            if refusal is not None and len(self._known) < _MOST_KNOWN:
                self._known[seconds] = refusal
        return refusal

    def _predict(self, texts: int, tokens: int) -> float:
        """Seconds until so many texts, of so many tokens, have been answered, beside what is being run."""
        limits, shared = self._limits, len(self._busy_since)
        runs = min(texts, max(-(-texts // limits.rows), -(-tokens // limits.tokens)))
        if None in self._busy_since:
            return self._cost.seconds(tokens / shared, runs / shared)
        # What runs now may just have begun.
        return self._cost.seconds(tokens / shared + min(limits.tokens, tokens), runs / shared + 1)
