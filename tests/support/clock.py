"""A clock that a test sets."""

from __future__ import annotations


class Clock:
    """The time in seconds, which moves when a test sets `now` or when somebody sleeps; sleeping takes no real time.

    Callable like `time.monotonic`; it may also stand in for the module `time`. `pauses` lists the sleeps.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.pauses.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        """Let time pass, awaitably."""
        self.sleep(seconds)
