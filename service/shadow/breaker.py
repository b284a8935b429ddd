"""The circuit breaker: a teacher that fails most of the time is left alone for a while."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum


class State(IntEnum):
    """`CLOSED` lets calls through, `OPEN` none, `HALF_OPEN` a single one that decides."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Opens when at least `share` of at least `minimum` calls within `window` seconds failed.

    After `pause` seconds one call is let through; it closes the breaker or keeps it open for another pause. The clock
    counts seconds.
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
        self._era = 0
        self.state = State.CLOSED

    def allow(self) -> int | None:
        """Return a ticket for one call, to be handed back to `record`; None when no call may be made now."""
        if self.state is State.OPEN and self._clock() - self._changed >= self._pause:
            self._become(State.HALF_OPEN)
            return self._era
        return self._era if self.state is State.CLOSED else None

    def record(self, ticket: int, *, success: bool) -> None:
        """Take how a call ended. One that began before the state last changed says nothing about now."""
        if ticket != self._era:
            return
        if self.state is State.HALF_OPEN:
            self._become(State.CLOSED if success else State.OPEN)
            return
        now = self._clock()
        self._results.append((now, success))
        self._failures += not success
        while now - self._results[0][0] > self._window:
            self._failures -= not self._results.popleft()[1]
        if len(self._results) >= self._minimum and self._failures >= self._share * len(self._results):
            self._become(State.OPEN)

    def release(self, ticket: int) -> None:
        """Take back the ticket of a call that showed nothing. Where it was to decide, another does after a pause."""
        if ticket == self._era and self.state is State.HALF_OPEN:
            self._become(State.OPEN)

    def _become(self, state: State) -> None:
        self.state = state
        self._changed = self._clock()
        self._era += 1
        self._results.clear()
        self._failures = 0
