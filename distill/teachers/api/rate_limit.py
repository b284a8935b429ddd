"""Limits how fast an API is called: per minute, as configured and as the server's headers say.

Every call waits here for its turn, first come, first served. This file knows headers and clocks, and makes no calls.
"""

from __future__ import annotations

import asyncio
import email.utils
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from distill.teachers.errors import TeacherError

MINUTE = 60.0
"""The longest that calls are held without asking again: a server that asks for more may have room sooner."""

Clock = Callable[[], float]

_SLACK = 0.1
_SAME = 5.0  # seconds by which the holds of calls that were refused together differ
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_IN_WORDS = re.compile(
    r"(?:retry|try again) (?:in|after) ((?:\d+(?:\.\d+)?\s*(?:ms|[smhd])[a-z]*[\s,]*)+)", re.IGNORECASE
)
_WORDED = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milli|[smhd])", re.IGNORECASE)
_FORMS = ("x-ratelimit-{what}-{kind}", "anthropic-ratelimit-{kind}-{what}")
_USED_UP_FORMS = (*_FORMS, "x-ratelimit-{what}", "ratelimit-{what}")
_USED_UP_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")
_RENAMED = "llm_provider-"  # what LiteLLM puts before the names of the headers of the server behind it
_EPOCH = 1e9  # from here on a number of seconds is a moment since 1970, and a thousand times it milliseconds


class Spacing:
    """Lets `per_minute` through a minute, evenly; None lets everything through.

    Up to a tenth of a second of oversleeping is made up for, so that a minute has at most that much too many.
    """

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._rate = None if per_minute is None else per_minute / MINUTE
        self._clock = clock
        self._free_at = clock()

    def delay(self) -> float:
        """Seconds until something may go through."""
        return 0.0 if self._rate is None else self._free_at - self._clock()

    def take(self, amount: float) -> None:
        """Let `amount` through; what comes next waits for as long as that much takes at the rate."""
        if self._rate is not None:
            self._free_at = max(self._free_at, self._clock() - _SLACK) + amount / self._rate


class Allowance:
    """What is left of a server's limit: what it last said, less what was sent since.

    Until it says something, nothing is held back. When the limit resets, it is taken to be as full as it was ever said
    to be, for the same time again or until the server says otherwise.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left = float("inf")
        self._full = 0.0
        self._resets_at = float("inf")
        self._period = 0.0

    def delay(self, amount: float) -> float:
        """Seconds until `amount` is allowed. An amount above the whole limit needs all of it."""
        now = self._clock()
        if now >= self._resets_at:
            self._left, self._resets_at = self._full, now + self._period
        return self._resets_at - now if self._left < min(amount, self._full) else 0.0

    def take(self, amount: float) -> None:
        """Count `amount` as used."""
        self._left -= amount

    def heard(self, left: float, full: float | None, reset: float) -> None:
        """The server says what is left, what the limit is when full, and in how many seconds it is.

        Answers come in any order, so that within one reset the least that was said holds.
        """
        now = self._clock()
        self._full = max(self._full, left, full or 0.0, 1.0)
        self._left = left if now >= self._resets_at else min(self._left, left)
        self._period = min(reset, MINUTE)
        self._resets_at = now + self._period


class Pace:
    """Requests and tokens per minute of one API."""

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or _loop_time
        self._requests = Spacing(requests_per_minute, clock)
        self._tokens = Spacing(tokens_per_minute, clock)
        self._allowances = {kind: Allowance(clock) for kind in ("requests", "tokens", "input-tokens")}
        self._clock = clock
        self._held_until = clock()
        self._asked = 0.0  # tokens of the call whose turn it was last
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()
        self._stopped = asyncio.Event()

    @property
    def held(self) -> float:
        """For how many seconds calls are held for the server: it asked for that, or says that a limit is used up."""
        return max(0.0, self._server_delay(self._asked))

    def stop(self) -> None:
        """Let nobody wait any longer: who does, or begins to, gets TeacherError."""
        self._stopped.set()
        self._news.set()

    async def sleep(self, seconds: float) -> None:
        """Wait so long before another attempt. Raises TeacherError when stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
        self._check()

    async def wait(self, tokens: float) -> None:
        """Return when a call of about `tokens` may be made, and count it. One at a time, so that none overtakes.

        Raises TeacherError when stopped.
        """
        async with self._turn:
            self._check()
            self._asked = tokens
            while (seconds := self._delay(tokens)) > 0:
                self._check()
                self._news.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), seconds)
            self._requests.take(1.0)
            self._tokens.take(tokens)
            for kind, allowance in self._allowances.items():
                allowance.take(1.0 if kind == "requests" else tokens)

    def hold(self, seconds: float) -> bool:
        """Hold all calls, since the server asked for it, for so many seconds or a minute, whichever is less.

        Returns whether that is news: calls were not yet held for about as long.
        """
        until = self._clock() + min(seconds, MINUTE)
        new = until > self._held_until + _SAME
        self._held_until = max(self._held_until, until)
        self._news.set()
        return new

    def heard(self, headers: Mapping[str, str]) -> None:
        """Follow what a response's headers say of the limits."""
        now = server_time(headers)
        for kind, allowance in self._allowances.items():
            for form in _FORMS:
                said = {
                    what: _header(headers, form.format(what=what, kind=kind))
                    for what in ("remaining", "limit", "reset")
                }
                if (left := _number(said["remaining"])) is not None:
                    reset = until(said["reset"], now)
                    allowance.heard(left, _number(said["limit"]), MINUTE if reset is None else reset)
                    self._news.set()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise TeacherError("stopped while calls waited for their turn; run the command again to go on")

    def _delay(self, tokens: float) -> float:
        return max(self._server_delay(tokens), self._requests.delay(), self._tokens.delay())

    def _server_delay(self, tokens: float) -> float:
        told = [one.delay(1.0 if kind == "requests" else tokens) for kind, one in self._allowances.items()]
        return max(self._held_until - self._clock(), *told)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, else `Retry-After` in seconds, as a date or a duration.

    None where it does not say, or says what makes no sense.
    """
    now = server_time(headers) if now is None else now
    value = _header(headers, "retry-after") or ""
    seconds: float | None
    if (milliseconds := _number(_header(headers, "retry-after-ms"))) is not None:
        seconds = milliseconds / 1000
    elif (number := _number(value)) is not None:
        seconds = _from(number, now)
    else:
        date = _date(value)
        seconds = until(value, now) if date is None else date - now
    return seconds if seconds is not None and seconds >= 0 else None


def asked_in_words(said: str) -> float | None:
    """Seconds to wait by the words of an error, as Gemini and Groq say it: `Please retry in 36.2s`, `… in 7m12s`."""
    found = _IN_WORDS.search(said)
    if found is None:
        return None
    parts = ((float(number), unit.lower()) for number, unit in _WORDED.findall(found[1]))
    return sum(number * _UNITS.get(unit, 0.001) for number, unit in parts)


def used_up(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds until the last of the limits resets that the server says are used up; None where it says of none."""
    now = server_time(headers) if now is None else now
    names = {form.format(what="{what}", kind=kind) for form in _USED_UP_FORMS for kind in _USED_UP_KINDS}
    resets = [
        until(_header(headers, name.format(what="reset")), now)
        for name in names
        if (left := _number(_header(headers, name.format(what="remaining")))) is not None and left <= 0
    ]
    return max((reset for reset in resets if reset is not None), default=None)


def until(value: str | None, now: float | None = None) -> float | None:
    """Seconds until a limit resets: `12ms`, `1s`, `6m0s` as OpenAI writes it, or an RFC 3339 time as Anthropic does.

    A number is of seconds, from now or, where it is as large as that, since 1970 (then also of milliseconds). None
    where there is no value, or one that says nothing of these.
    """
    if not value:
        return None
    now = time.time() if now is None else now
    parts = _DURATION.findall(value)
    if parts and "".join(number + unit for number, unit in parts) == value:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    if (seconds := _number(value)) is not None:
        return max(0.0, _from(seconds, now))
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, aware.timestamp() - now)


def server_time(headers: Mapping[str, str]) -> float:
    """Seconds since 1970 by the server's clock, by which it means its dates; by ours where it does not tell."""
    date = _date(headers.get("date", ""))
    return time.time() if date is None else date


def told(seconds: float) -> str:
    """A time to wait, for people: `90 s`, `12 min`, `7.5 h`, `30 days`."""
    for unit, size, most in (("s", 1.0, 120.0), ("min", MINUTE, 120.0), ("h", 3600.0, 48.0)):
        if seconds < most * size:
            return f"{seconds / size:.3g} {unit}"
    days = seconds / 86400.0
    return f"{days:,.0f} days" if days < 1e5 else "more than 100,000 days"


def _header(headers: Mapping[str, str], name: str) -> str | None:
    """A header of who answered, else of the server behind a gateway that passes it on under another name."""
    value = headers.get(name)
    return headers.get(_RENAMED + name) if value is None else value


def _from(number: float, now: float) -> float:
    """A number of seconds, or of a moment since 1970 in seconds or milliseconds, as seconds from now."""
    if number < _EPOCH:
        return number
    return (number / 1000 if number >= _EPOCH * 1000 else number) - now


def _loop_time() -> float:
    """The time of the event loop that waits, or that it would have where none runs yet."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


def _date(value: str) -> float | None:
    try:
        date = email.utils.parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _number(value: str | None) -> float | None:
    """A finite number, or nothing."""
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
