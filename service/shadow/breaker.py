"""The circuit breaker: stops calls for a while to a teacher that fails most of the time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum


class State(IntEnum):
    """`CLOSED` allows calls, `OPEN` none, `HALF_OPEN` waits for the result of a single probe."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Opens when at least `share` of the calls in the last `window` seconds failed, of at least `minimum` calls.

    After `pause` seconds it allows one probe, which closes it or keeps it open for another pause. `clock` returns
    seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        share: float = 0.5,
        minimum: int = 20,
        window: float = 30.0,
        pause: float = 30.0,
    ) -> None:
        self._clock = clock
        self._share, self._minimum, self._window, self._pause = share, minimum, window, pause
        self._results: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._changed = clock()
        self._generation = 0
        self.state = State.CLOSED

    def allow(self) -> int | None:
        """Return a ticket for one call, to be passed to `record` or `release`; None if no call is allowed."""
        if self.state is State.OPEN and self._clock() - self._changed >= self._pause:
            self._change_to(State.HALF_OPEN)
            return self._generation
        return self._generation if self.state is State.CLOSED else None

    def record(self, ticket: int, *, success: bool) -> None:
        """Record how a call ended. A call that began before the last change of state is ignored."""
        if ticket != self._generation:
            return
        if self.state is State.HALF_OPEN:
            self._change_to(State.CLOSED if success else State.OPEN)
            return
        now = self._clock()
        self._results.append((now, success))
        self._failures += not success
        while now - self._results[0][0] > self._window:
            self._failures -= not self._results.popleft()[1]
        if len(self._results) >= self._minimum and self._failures >= self._share * len(self._results):
            self._change_to(State.OPEN)

    def release(self, ticket: int) -> None:
        """Return the ticket of an inconclusive call. After a probe, the breaker stays open for another pause."""
        if ticket == self._generation and self.state is State.HALF_OPEN:
            self._change_to(State.OPEN)

    def _change_to(self, state: State) -> None:
        self.state = state
        self._changed = self._clock()
        self._generation += 1
        self._results.clear()
        self._failures = 0
