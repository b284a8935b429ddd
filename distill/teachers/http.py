"""Asking an API over HTTP: what is tried again, when, and what each failure means. No vendor's formats are here."""

from __future__ import annotations

import email.utils
import ipaddress
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from distill.teachers.base import TeacherError

LONGEST_WAIT = 60.0
RETRIED = frozenset({408, 409, 429})


class ApiError(TeacherError):
    """A call that failed. `wait` is how many seconds the server asked to be left alone for, where it said so.

    `charged` says that the server may have done the work, and charge for it, though nothing came of it here.
    """

    def __init__(
        self, message: str, *, retryable: bool = False, wait: float | None = None, charged: bool = False
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.wait = wait
        self.charged = charged


async def send(
    client: httpx.AsyncClient,
    path: str,
    body: Mapping[str, Any],
    *,
    who: str,
    heard: Callable[[httpx.Headers], None] = lambda headers: None,
) -> dict[str, Any]:
    """Post JSON once and give the JSON object that comes back; `heard` is shown the headers of any response.

    Raises ApiError, whose message says what to do, when anything else happens.
    """
    try:
        response = await client.post(path, json=body)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise ApiError(
            f"{who} cannot be reached ({error or type(error).__name__}); is base_url right, and the server up?",
            retryable=True,
        ) from error
    except httpx.TimeoutException as error:
        raise ApiError(
            f"{who} did not answer in time ({type(error).__name__}); raise timeout_seconds if it is only slow",
            retryable=True,
            charged=True,
        ) from error
    except httpx.TransportError as error:
        raise ApiError(f"{who} broke off its answer ({error})", retryable=True, charged=True) from error
    heard(response.headers)
    if response.status_code != 200:
        raise failure(response, who)
    try:
        data = response.json()
    except ValueError as error:
        raise ApiError(
            f"{who} answered something that is not JSON; is base_url that of an API?", retryable=True, charged=True
        ) from error
    if not isinstance(data, dict):
        raise ApiError(
            f"{who} answered {type(data).__name__} where an object was expected", retryable=True, charged=True
        )
    return data


def persistent(attempts: int) -> AsyncRetrying:
    """Tries again what may pass, after what the server asked for, until `attempts` are used up."""
    return AsyncRetrying(
        stop=stop_after_attempt(attempts), retry=retry_if_exception(_may_pass), wait=_pause, reraise=True
    )


def failure(response: httpx.Response, who: str) -> ApiError:
    """What a response other than 200 means."""
    status, said = response.status_code, _message(response)
    if status in (401, 403):
        return ApiError(f"{who} refuses the key ({status}: {said}); set the variable that `key_env` names")
    if "insufficient_quota" in response.text:
        return ApiError(f"{who} has no money left ({said}); waiting does not help")
    advice = response.headers.get("x-should-retry")
    retryable = status in RETRIED or status >= 500 if advice not in ("true", "false") else advice == "true"
    return ApiError(f"{who} answered {status}: {said}", retryable=retryable, wait=retry_after(response.headers))


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, else `Retry-After` in seconds or as a date.

    None where it does not say, or says what makes no sense or is longer than a minute.
    """
    seconds: float | None = None
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        elif "retry-after" in headers:
            seconds = float(headers["retry-after"])
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(headers["retry-after"])
        except (KeyError, ValueError):
            return None
        moment = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (moment - datetime.fromtimestamp(time.time() if now is None else now, UTC)).total_seconds()
    return seconds if seconds is not None and 0 <= seconds <= LONGEST_WAIT else None


def is_local(base_url: str) -> bool:
    """Whether a server is one's own: on this machine or in a private network."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or host.endswith((".local", ".internal", ".svc")) or "." not in host


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, ApiError) and error.retryable


def _pause(state: RetryCallState) -> float:
    """What the server asked for, else exponential; with jitter, so that many clients do not come back at once."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait if isinstance(error, ApiError) else None
    if asked is not None:
        return asked + random.uniform(0, 0.1)
    return min(0.5 * 2.0 ** (state.attempt_number - 1), 8.0) * random.uniform(0.75, 1.0)


def _message(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:300]
    except (ValueError, KeyError, TypeError):
        return response.text[:300] or response.reason_phrase
