"""How fast an API may be called: limits per minute, as configured and as the server's headers tell.

Who calls waits here first. This file knows headers and clocks, and makes no calls.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime

MINUTE = 60.0
LONGEST_PAUSE = 120.0

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Bucket:
    """A token bucket that refills evenly: at most `per_minute` a minute, and no more than a second's worth at once."""

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate = None if per_minute is None else per_minute / MINUTE
        self._free_at = 0.0
        self._closed_until = 0.0

    def delay(self, amount: float) -> float:
        """Seconds until `amount` may be used."""
        now = self._clock()
        paced = 0.0 if self._rate is None else self._free_at - now
        return max(0.0, paced, self._closed_until - now)

    def take(self, amount: float) -> None:
        """Use `amount`; what comes next waits for it to refill."""
        if self._rate is not None:
            now = self._clock()
            self._free_at = max(self._free_at, now - 1.0) + amount / self._rate

    def close(self, seconds: float) -> None:
        """Let nobody through for a while."""
        self._closed_until = max(self._closed_until, self._clock() + min(seconds, LONGEST_PAUSE))

    def heard(self, remaining: float, reset: float, amount: float) -> None:
        """The server says what is left until its limit resets in `reset` seconds, when a call takes `amount`."""
        if remaining < amount:
            self.close(reset)


class Pace:
    """Requests and tokens per minute of one API."""

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.requests = Bucket(requests_per_minute, clock)
        self.tokens = Bucket(tokens_per_minute, clock)
        self._clock = clock
        self._typical = 1.0

    async def wait(self, tokens: float) -> None:
        """Return when a call of about `tokens` may be made, and count it."""
        while (seconds := max(self.requests.delay(1), self.tokens.delay(tokens))) > 0:
            await asyncio.sleep(seconds)
        self.requests.take(1)
        self.tokens.take(tokens)
        self._typical = tokens

    def hold(self, seconds: float) -> None:
        """The server asked to be left alone for so long."""
        self.requests.close(seconds)

    def heard(self, headers: Mapping[str, str]) -> None:
        """Follow what a response's headers say of the limits."""
        for prefix, form in (("x-ratelimit-", "{}-{}"), ("anthropic-ratelimit-", "{1}-{0}")):
            for kind, bucket, amount in (
                ("requests", self.requests, 1.0),
                ("tokens", self.tokens, self._typical),
                ("input-tokens", self.tokens, self._typical),
            ):
                remaining = _number(headers.get(prefix + form.format("remaining", kind)))
                reset = until(headers.get(prefix + form.format("reset", kind)))
                if remaining is not None and reset is not None:
                    bucket.heard(remaining, reset, amount)


def until(value: str | None, now: float | None = None) -> float | None:
    """Seconds until a limit resets: `12ms`, `1s`, `6m0s` as OpenAI writes it, or an RFC 3339 time as Anthropic does.

    None where there is no value, or one that says neither.
    """
    if not value:
        return None
    parts = _DURATION.findall(value)
    if parts and "".join(number + unit for number, unit in parts) == value:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    if (seconds := _number(value)) is not None:
        return max(0.0, seconds)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - (time.time() if now is None else now))


def _number(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None
