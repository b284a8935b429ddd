"""Calls an API over HTTP, within limits of time and size, and retries. Vendors' formats are elsewhere.

`server` names the server in messages.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from distill.teachers.api import bodies
from distill.teachers.api.errors import (
    SHORTEST_WAIT,
    ApiError,
    error_of,
    not_an_object,
    timed_out,
    too_large,
    transport_errors,
)
from distill.teachers.api.limit_headers import MINUTE

MAX_BYTES = 4 * 2**20
"""The largest response. A model that reasons for 100,000 tokens sends about half a megabyte."""

PATIENCE = 3600.0
"""Seconds that a call waits in all when a server keeps asking it to wait."""


async def post_json(
    client: httpx.AsyncClient,
    path: str,
    body: Mapping[str, Any],
    *,
    server: str,
    max_bytes: int = MAX_BYTES,
    on_headers: Callable[[httpx.Headers], None] = lambda headers: None,
) -> dict[str, Any]:
    """Post JSON once and return the JSON object that comes back; `on_headers` gets the headers of any response.

    The client's timeout for reads limits the whole call. Raises ApiError, whose message says what to do, for every
    failure.
    """
    async with time_limit(client.timeout.read, server):
        response = await fetch(client, "POST", path, server=server, max_bytes=max_bytes, json=body)
    on_headers(response.headers)
    return json_object(response, server)


async def fetch(
    client: httpx.AsyncClient, method: str, path: str, *, server: str, max_bytes: int = MAX_BYTES, **content: Any
) -> httpx.Response:
    """Return the whole response to a request, with an unpacked body of `max_bytes` at most.

    The client's timeout for reads limits the time from its first byte to its last. Raises ApiError for no response and
    for one that is larger or slower; an error's body that is too large is dropped.
    """
    with transport_errors(server):
        async with client.stream(method, path, **content) as response:
            async with time_limit(content.get("timeout", client.timeout).read, server):
                return await read_body(response, server, max_bytes)


async def read_body(response: httpx.Response, server: str, max_bytes: int) -> httpx.Response:
    """Return the response with its unpacked body. The body of an error that cannot be read becomes empty.

    For a success, raises ApiError above `max_bytes`, and httpx.DecodingError if it cannot be unpacked.
    """
    try:
        body = await bodies.whole(response, max_bytes)
    except bodies.TooLargeError:
        if response.status_code == 200:
            raise too_large(server, max_bytes) from None
        body = b""
    except httpx.DecodingError:
        if response.status_code == 200:
            raise
        body = b""
    headers = httpx.Headers(response.headers)
    headers.pop("content-encoding", None)
    return httpx.Response(response.status_code, headers=headers, content=body, request=response.request)


@asynccontextmanager
async def time_limit(seconds: float | None, server: str) -> AsyncIterator[None]:
    """Raise ApiError after `seconds`, also while bytes keep coming in."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise timed_out(server, f"in {seconds:g} s") from error


def json_object(response: httpx.Response, server: str) -> dict[str, Any]:
    """The JSON object in a response of status 200. Raises ApiError for any other response."""
    if response.status_code != 200:
        raise error_of(response, server)
    try:
        data = response.json()
    except (ValueError, RecursionError) as error:
        raise not_an_object(server, "something that is not JSON; is base_url that of an API?") from error
    if not isinstance(data, dict):
        raise not_an_object(server, f"{type(data).__name__} where an object was expected")
    return data


class Attempts:
    """Counts down attempts. A failure for which the server asked to wait does not count.

    It does count once the waits add up to `patience` seconds, or if the server asks for a longer wait than that.
    """

    def __init__(self, count: int, patience: float = PATIENCE) -> None:
        self._left = count
        self._patience = patience

    def used_up(self, error: BaseException | None, waited: float) -> bool:
        """Count a failure after `waited` seconds of waiting. Returns whether it was the last attempt."""
        asked = error.wait if isinstance(error, ApiError) else None
        obeyed = asked is not None and SHORTEST_WAIT <= asked <= self._patience and waited < self._patience
        self._left -= not obeyed
        return self._left <= 0


def retrying(
    attempts: int, patience: float = PATIENCE, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncRetrying:
    """Retry transient failures until `attempts` are used up, as Attempts counts them.

    If the server asks for a wait, the next attempt comes after that wait or a minute, whichever is less.
    """
    left = Attempts(attempts, patience)
    return AsyncRetrying(
        stop=lambda state: left.used_up(state.outcome.exception() if state.outcome else None, state.idle_for),
        retry=retry_if_exception(lambda error: isinstance(error, ApiError) and error.retryable),
        wait=_pause,
        sleep=sleep,
        reraise=True,
    )


def _pause(state: RetryCallState) -> float:
    """Seconds until the next attempt: as the server asked, else exponential, with jitter to spread clients out."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait if isinstance(error, ApiError) else None
    if asked is not None:
        return min(asked, MINUTE) + random.uniform(0, 0.1)
    return min(0.5 * 2.0 ** (min(state.attempt_number, 9) - 1), 8.0) * random.uniform(0.75, 1.0)
