"""Reads what servers say of rate limits and waits, in headers and in the words of errors."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime

MINUTE = 60.0
"""The longest wait before the server is asked again: one that asks for more may have room sooner."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_RETRY_IN = re.compile(
    r"(?:retry|try again) (?:in|after) ((?:\d+(?:\.\d+)?\s*(?:ms|[smhd])[a-z]*[\s,]*)+)", re.IGNORECASE
)
_WORDED_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milli|[smhd])", re.IGNORECASE)
_FORMS = ("x-ratelimit-{what}-{kind}", "anthropic-ratelimit-{kind}-{what}")
_UNKINDED_FORMS = ("x-ratelimit-{what}", "ratelimit-{what}")
_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")
_LITELLM_PREFIX = "llm_provider-"  # before the names of headers that LiteLLM passes on from the server behind it
_EPOCH = 1e9  # a number from here on is a time since 1970 in seconds, and from 1e12 on in milliseconds


Report = tuple[float, float | None, float | None]
"""What headers say of a limit: how much is left, the full limit, and in how many seconds it resets."""


def limit_reports(headers: Mapping[str, str], kind: str) -> list[Report]:
    """What headers say of the limit of a `kind`: `requests`, `tokens` or `input-tokens`."""
    now = server_time(headers)
    reports = (_report(headers, form.replace("{kind}", kind), now) for form in _FORMS)
    return [report for report in reports if report is not None]


def seconds_until_reset(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds until the last of the exhausted limits resets; None if headers name no exhausted one."""
    now = server_time(headers) if now is None else now
    forms = [*(form.replace("{kind}", kind) for form in _FORMS for kind in _KINDS), *_UNKINDED_FORMS]
    reports = (_report(headers, form, now) for form in forms)
    exhausted = (report for report in reports if report is not None and report[0] <= 0)
    return max((reset for _, _, reset in exhausted if reset is not None), default=None)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, else `Retry-After` in seconds, as a date or a duration.

    None for a missing header or an invalid value.
    """
    now = server_time(headers) if now is None else now
    value = _header(headers, "retry-after") or ""
    seconds: float | None
    if (milliseconds := _number(_header(headers, "retry-after-ms"))) is not None:
        seconds = milliseconds / 1000
    elif (number := _number(value)) is not None:
        seconds = _from_now(number, now)
    else:
        date = _date(value)
        seconds = seconds_until(value, now) if date is None else date - now
    return seconds if seconds is not None and seconds >= 0 else None


def retry_after_in(message: str) -> float | None:
    """Seconds to wait by the words of an error, as Gemini and Groq write it: `Please retry in 36.2s`, `… in 7m12s`."""
    found = _RETRY_IN.search(message)
    if found is None:
        return None
    parts = ((float(number), unit.lower()) for number, unit in _WORDED_DURATION.findall(found[1]))
    return sum(number * _UNITS.get(unit, 0.001) for number, unit in parts)


def seconds_until(value: str | None, now: float | None = None) -> float | None:
    """Seconds until a limit resets: `12ms`, `1s`, `6m0s` as OpenAI writes it, or an RFC 3339 time as Anthropic does.

    A number is in seconds from now or, from 1e9 on, since 1970, from 1e12 on in milliseconds. None for a missing or
    invalid value.
    """
    if not value:
        return None
    now = time.time() if now is None else now
    parts = _DURATION.findall(value)
    if parts and "".join(number + unit for number, unit in parts) == value:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    if (seconds := _number(value)) is not None:
        return max(0.0, _from_now(seconds, now))
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, aware.timestamp() - now)


def server_time(headers: Mapping[str, str]) -> float:
    """Seconds since 1970 by the server's clock, which its dates refer to; by ours without a `date` header."""
    date = _date(headers.get("date", ""))
    return time.time() if date is None else date


def format_seconds(seconds: float) -> str:
    """A duration for people: `90 s`, `12 min`, `7.5 h`, `30 days`."""
    for unit, size, most in (("s", 1.0, 120.0), ("min", MINUTE, 120.0), ("h", 3600.0, 48.0)):
        if seconds < most * size:
            return f"{seconds / size:.3g} {unit}"
    days = seconds / 86400.0
    return f"{days:,.0f} days" if days < 1e5 else "more than 100,000 days"


def _report(headers: Mapping[str, str], form: str, now: float) -> Report | None:
    left, full, reset = (_header(headers, form.format(what=what)) for what in ("remaining", "limit", "reset"))
    number = _number(left)
    return None if number is None else (number, _number(full), seconds_until(reset, now))


def _header(headers: Mapping[str, str], name: str) -> str | None:
    """A header of the server that answered, else of the one behind a gateway that renames it."""
    value = headers.get(name)
    return headers.get(_LITELLM_PREFIX + name) if value is None else value


def _from_now(number: float, now: float) -> float:
    """A number of seconds from now, or a time since 1970 in seconds or milliseconds, as seconds from now."""
    if number < _EPOCH:
        return number
    return (number / 1000 if number >= _EPOCH * 1000 else number) - now


def _date(value: str) -> float | None:
    try:
        date = email.utils.parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _number(value: str | None) -> float | None:
    """A finite number; None for anything else."""
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
