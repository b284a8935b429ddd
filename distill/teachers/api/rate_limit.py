"""Limits how fast an API is called: per minute, as configured and as the server's headers say.

Every call waits here for its turn, first come, first served.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar

from distill.teachers.api.limit_headers import MINUTE, limit_reports
from distill.teachers.errors import TeacherError

_SLACK = 0.1
_SAME = 5.0  # seconds by which the waits of calls that were refused together differ


class ConfiguredRate:
    """Lets `per_minute` units through a minute, evenly spaced; None lets everything through.

    Compensates for up to a tenth of a second of oversleeping, so a minute has at most that much too many.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._rate = None if per_minute is None else per_minute / MINUTE
        self._free_at = _loop_time()

    def delay(self) -> float:
        """Seconds until the next unit may go through."""
        return 0.0 if self._rate is None else self._free_at - _loop_time()

    def take(self, amount: float) -> None:
        """Let `amount` through, and delay what follows by the time that it takes at the rate."""
        if self._rate is not None:
            self._free_at = max(self._free_at, _loop_time() - _SLACK) + amount / self._rate


class ReportedLimit:
    """What is left of a server's limit: the last reported value, less what was sent since.

    Nothing is delayed before the first report. When the limit resets, it is assumed to be full again, as the highest
    report said, for the same period or until the next report.
    """

    def __init__(self) -> None:
        self._left = float("inf")
        self._full = 0.0
        self._resets_at = float("inf")
        self._period = 0.0

    def delay(self, amount: float) -> float:
        """Seconds until `amount` is allowed. An amount above the whole limit needs all of it."""
        now = _loop_time()
        if now >= self._resets_at:
            self._left, self._resets_at = self._full, now + self._period
        return self._resets_at - now if self._left < min(amount, self._full) else 0.0

    def take(self, amount: float) -> None:
        """Count `amount` as used."""
        self._left -= amount

    def update(self, left: float, full: float | None, reset: float) -> None:
        """Take over a report: what is left, the full limit if known, and in how many seconds it resets.

        Responses arrive in any order, so the lowest report until the next reset counts.
        """
        now = _loop_time()
        self._full = max(self._full, left, full or 0.0, 1.0)
        self._left = left if now >= self._resets_at else min(self._left, left)
        self._period = min(reset, MINUTE)
        self._resets_at = now + self._period


class Waits:
    """How many calls for a text wait before they are sent. One that is cancelled while it waits stays counted.

    Whoever asks sets `WAITS` to one, to tell a teacher that is slow from calls that were held.
    """

    def __init__(self) -> None:
        self.count = 0


WAITS: ContextVar[Waits] = ContextVar("waits")


class RateLimiter:
    """Limits the requests and tokens per minute of one API."""

    def __init__(self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        self._requests = ConfiguredRate(requests_per_minute)
        self._tokens = ConfiguredRate(tokens_per_minute)
        self._reported = {kind: ReportedLimit() for kind in ("requests", "tokens", "input-tokens")}
        self._held_until = _loop_time()
        self._next_tokens = 0.0  # of the call whose turn it was last
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()

    @property
    def held(self) -> float:
        """Seconds for which the server holds calls: it asked for a wait, or reports an exhausted limit."""
        return max(0.0, self._server_delay(self._next_tokens))

    def stop(self) -> None:
        """Raise TeacherError in every call that waits, now or later."""
        self._stopped.set()
        self._changed.set()

    async def sleep(self, seconds: float) -> None:
        """Wait before another attempt. Raises TeacherError when stopped."""
        waits = WAITS.get(Waits())
        waits.count += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
        waits.count -= 1
        self._check()

    async def wait(self, tokens: float) -> None:
        """Wait until a call of about `tokens` may be made, and count it. Calls keep their order.

        Raises TeacherError when stopped.
        """
        waits = WAITS.get(Waits())
        waits.count += 1
        async with self._turn:
            self._check()
            self._next_tokens = tokens
            while (seconds := self._delay(tokens)) > 0:
                self._check()
                self._changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), seconds)
            self._requests.take(1.0)
            self._tokens.take(tokens)
            for kind, limit in self._reported.items():
                limit.take(1.0 if kind == "requests" else tokens)
        waits.count -= 1

    def hold(self, seconds: float) -> bool:
        """Hold all calls for as long as the server asked, a minute at most.

        Returns whether this is new: calls were not yet held for about as long.
        """
        until = _loop_time() + min(seconds, MINUTE)
        new = until > self._held_until + _SAME
        self._held_until = max(self._held_until, until)
        self._changed.set()
        return new

    def update(self, headers: Mapping[str, str]) -> None:
        """Take over what the headers of a response say of the limits."""
        for kind, limit in self._reported.items():
            for left, full, reset in limit_reports(headers, kind):
                limit.update(left, full, MINUTE if reset is None else reset)
                self._changed.set()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise TeacherError("stopped while calls waited for their turn; run the command again to go on")

    def _delay(self, tokens: float) -> float:
        return max(self._server_delay(tokens), self._requests.delay(), self._tokens.delay())

    def _server_delay(self, tokens: float) -> float:
        delays = [limit.delay(1.0 if kind == "requests" else tokens) for kind, limit in self._reported.items()]
        return max(self._held_until - _loop_time(), *delays)


def _loop_time() -> float:
    """The time of the running event loop, or by the clock that it would use."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()
