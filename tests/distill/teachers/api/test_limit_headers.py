"""What servers say of limits and waits, in headers and in words, is read in every form that they use."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from distill.teachers.api.limit_headers import (
    format_seconds,
    retry_after,
    retry_after_in,
    seconds_until,
    seconds_until_reset,
    server_time,
)


def rate(remaining: float, reset: str, kind: str = "requests", **more: str) -> dict[str, str]:
    headers = {f"x-ratelimit-remaining-{kind}": str(remaining), f"x-ratelimit-reset-{kind}": reset}
    return headers | {f"x-ratelimit-{name}-{kind}": value for name, value in more.items()}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:30 GMT"}, 30.0),
        ({"retry-after": "3600"}, 3600.0),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after": "1970-01-01T00:03:00Z"}, 120.0),
        ({"llm_provider-retry-after": "90"}, 90.0),
        ({"llm_provider-retry-after-ms": "90000", "llm_provider-retry-after": "9"}, 90.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:30 GMT"}, None),
        ({"retry-after": "Thu, 32 Foo 1970 00:00:30 GMT"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=60.0) == seconds


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Quota exceeded for metric: requests, limit: 15\nPlease retry in 36.25s.", 36.25),
        ("Rate limit reached on tokens per day. Please try again in 7m12s. Visit the console", 432.0),
        ("Please retry after 60 seconds. To increase your limit", 60.0),
        ("Please try again in 250ms.", 0.25),
        ("please retry in 1 minute, 5 seconds", 65.0),
        ("try again in 2 hours", 7200.0),
        ("Please try again later", None),
        ("retry after 12", None),
        ("limit: 15s", None),
        ("", None),
    ],
)
def test_how_long_an_error_says_to_wait_in_words(said: str, seconds: float | None) -> None:
    assert retry_after_in(said) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (rate(0, "1m30s"), 90.0),
        (rate(0, "1m30s") | rate(0, "6m0s", kind="tokens"), 360.0),
        (rate(0, "1m30s") | rate(5, "6m0s", kind="tokens"), 90.0),
        ({"x-ratelimit-remaining-requests": "0", "llm_provider-x-ratelimit-reset-requests": "1m30s"}, 90.0),
        (
            {
                "anthropic-ratelimit-output-tokens-remaining": "0",
                "anthropic-ratelimit-output-tokens-reset": "1970-01-01T00:03:00Z",
            },
            120.0,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1700000000000"}, 1700000000 - 60.0),
        (rate(5, "1m30s"), None),
        (rate(0, "soon"), None),
        ({}, None),
    ],
)
def test_when_limits_that_are_used_up_reset(headers: dict[str, str], seconds: float | None) -> None:
    assert seconds_until_reset(headers, now=60.0) == seconds


@pytest.mark.parametrize(
    ("seconds", "said"), [(1.5, "1.5 s"), (90, "90 s"), (150, "2.5 min"), (7200, "2 h"), (86400 * 30, "30 days")]
)
def test_a_time_is_told_as_people_do(seconds: float, said: str) -> None:
    assert format_seconds(seconds) == said


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("12ms", 0.012),
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("20", 20.0),
        ("-3", 0.0),
        ("1970-01-01T00:01:30Z", 30.0),
        ("1970-01-01T02:01:30+02:00", 30.0),
        ("1970-01-01T00:01:30", 30.0),
        ("1970-01-01T00:00:10Z", 0.0),
        ("1700000000", 1700000000 - 60.0),
        ("1700000000000", 1700000000 - 60.0),
        ("soon", None),
        ("5 parsecs", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_when_a_limit_resets(value: str | None, seconds: float | None) -> None:
    assert seconds_until(value, now=60.0) == seconds


def test_the_servers_clock_is_its_date_header() -> None:
    assert server_time({"date": "Thu, 01 Jan 1970 00:01:30 GMT"}) == 90.0
    assert server_time({"date": "yesterday"}) == pytest.approx(datetime.now(UTC).timestamp(), abs=60)
