"""Calls an API over HTTP: what is tried again and when, and what each failure means. It knows no vendor's formats."""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from distill.teachers.api import bodies, rejections
from distill.teachers.api.rate_limit import MINUTE, asked_in_words, retry_after, told, used_up
from distill.teachers.api.rejections import Verdict
from distill.teachers.api.scrubbing import scrubbed
from distill.teachers.errors import TeacherError

RETRIED = frozenset({408, 409, 429})
MOST_BYTES = 4 * 2**20
"""How large a response may be. A model that reasons first for 100,000 tokens says about half a megabyte."""
PATIENCE = 3600.0
"""Seconds that a call waits in all for a server that asks to be left alone."""
_SHORTEST_WAIT = 1.0  # seconds: a server that asks for less holds nobody up


class ApiError(TeacherError):
    """A call that failed. `wait` is how many seconds the server asked to be left alone for, where it said so.

    `charged` says that the server may have done the work, and charge for it, though nothing came of it here. `status`
    is that of its response, if there was one, `said` its own words and `body` the whole of them. `verdict` is what they
    say of the text that was asked about; None where they are about no text. Who made the call notes in `turn` which
    call of its own it was, and what it cost, in dollars and seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        wait: float | None = None,
        charged: bool = False,
        status: int | None = None,
        said: str = "",
        body: object = None,
        verdict: Verdict | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.wait = wait
        self.charged = charged
        self.status = status
        self.said = said
        self.body = body
        self.verdict = verdict
        self.turn = 0
        self.cost_usd = 0.0
        self.seconds = 0.0


class UnreadableError(ApiError):
    """A response of 200 that holds no answer; `why` says what it lacks, in a word or two.

    `passing` says that asking again may help even where no answer was ever read.
    """

    def __init__(self, message: str, why: str = "", *, passing: bool = False) -> None:
        super().__init__(message, said=f"no answer that can be read ({why})", verdict="unclear")
        self.why = why
        self.passing = passing


async def send(
    client: httpx.AsyncClient,
    path: str,
    body: Mapping[str, Any],
    *,
    who: str,
    most: int = MOST_BYTES,
    heard: Callable[[httpx.Headers], None] = lambda headers: None,
) -> dict[str, Any]:
    """Post JSON once and give the JSON object that comes back; `heard` is shown the headers of any response.

    The whole takes no longer than the client waits for a read. Raises ApiError, whose message says what to do, when
    anything else happens.
    """
    async with timed(client.timeout.read, who):
        response = await fetch(client, "POST", path, who=who, most=most, json=body)
    heard(response.headers)
    return json_object(response, who)


async def fetch(
    client: httpx.AsyncClient, method: str, path: str, *, who: str, most: int = MOST_BYTES, **content: Any
) -> httpx.Response:
    """Return the whole response to a request, with an unpacked body of `most` bytes at most.

    Once it has begun, it may take as long as the client's timeout for reads. Raises ApiError for a response that is
    larger or slower, and for none; the body of an error that is too large is left out.
    """
    with transport_errors(who):
        async with client.stream(method, path, **content) as response:
            async with timed(content.get("timeout", client.timeout).read, who):
                return await received(response, who, most)


async def received(response: httpx.Response, who: str, most: int) -> httpx.Response:
    """A response whose body is read and unpacked; that of an error is empty where it cannot be.

    Raises ApiError for a success of more than `most` bytes, and httpx.DecodingError for one that cannot be unpacked.
    """
    try:
        body = await bodies.whole(response, most)
    except bodies.TooLargeError:
        if response.status_code == 200:
            raise too_large(who, most) from None
        body = b""
    except httpx.DecodingError:
        if response.status_code == 200:
            raise
        body = b""
    headers = httpx.Headers(response.headers)
    headers.pop("content-encoding", None)
    return httpx.Response(response.status_code, headers=headers, content=body, request=response.request)


@asynccontextmanager
async def timed(seconds: float | None, who: str) -> AsyncIterator[None]:
    """Raises ApiError for what takes longer; a server that goes on and on is as slow as one that says nothing."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise _late(who, f"in {seconds:g} s") from error


def too_large(who: str, most: int) -> ApiError:
    """What an answer of more than so many bytes means."""
    return ApiError(
        f"{who} answers with more than {most / 2**20:.3g} MiB, which no answer to a question has; is base_url right? "
        "If it is, raise max_response_bytes",
        charged=True,
        said=f"an answer of more than {most / 2**20:.3g} MiB",
        verdict="unclear",
    )


@contextmanager
def about(text: str) -> Iterator[None]:
    """Notes in an ApiError that may be for what is asked about, and not for every call, that this is the text."""
    try:
        yield
    except ApiError as error:
        if error.verdict is not None or error.retryable:
            error.text = text
        raise


@contextmanager
def transport_errors(who: str) -> Iterator[None]:
    """Raises ApiError for what goes wrong before a whole response is there."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise ApiError(
            f"{who} cannot be reached ({error or type(error).__name__}); is base_url right, and the server up?",
            retryable=True,
        ) from error
    except httpx.TimeoutException as error:
        raise _late(who, type(error).__name__) from error
    except httpx.RequestError as error:
        raise ApiError(
            f"{who} broke off its answer ({_why(error)})",
            retryable=True,
            charged=True,
            said="an answer that was broken off",
            verdict="unclear",
        ) from error


def _why(error: httpx.RequestError) -> str:
    """What went wrong, without the bytes of a header or of a response that the library may repeat."""
    said = str(error).partition("b'")[0].partition("bytearray")[0].rstrip(" :")
    return said if said and not isinstance(error, httpx.LocalProtocolError) else type(error).__name__


def _late(who: str, what: str) -> ApiError:
    return ApiError(
        f"{who} did not answer in time ({what}); raise timeout_seconds if it is only slow",
        retryable=True,
        charged=True,
        said="no answer in time",
        verdict="unclear",
    )


def json_object(response: httpx.Response, who: str) -> dict[str, Any]:
    """The JSON object that a response of 200 holds. Raises ApiError for any other response."""
    if response.status_code != 200:
        raise failure(response, who)
    try:
        data = response.json()
    except (ValueError, RecursionError) as error:
        raise _no_object(who, "something that is not JSON; is base_url that of an API?") from error
    if not isinstance(data, dict):
        raise _no_object(who, f"{type(data).__name__} where an object was expected")
    return data


def _no_object(who: str, what: str) -> ApiError:
    message = f"{who} answered {what}"
    return ApiError(message, retryable=True, charged=True, said="an answer that is no JSON object", verdict="unclear")


class Attempts:
    """Counts attempts down. A failure after which the server asked for a wait is free.

    It counts like any other once waits come to `patience` seconds in all, or where the server asks for more than that.
    """

    def __init__(self, count: int, patience: float = PATIENCE) -> None:
        self._left = count
        self._patience = patience

    def used_up(self, error: BaseException | None, waited: float) -> bool:
        """Whether this failure, after so many seconds of waiting, was the last."""
        asked = error.wait if isinstance(error, ApiError) else None
        obeyed = asked is not None and _SHORTEST_WAIT <= asked <= self._patience and waited < self._patience
        self._left -= not obeyed
        return self._left <= 0


def persistent(
    attempts: int, patience: float = PATIENCE, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncRetrying:
    """Tries again what may pass, until `attempts` are used up, as Attempts counts them.

    A server that asks to be left alone is asked again when it wished, or after a minute.
    """
    left = Attempts(attempts, patience)
    return AsyncRetrying(
        stop=lambda state: left.used_up(state.outcome.exception() if state.outcome else None, state.idle_for),
        retry=retry_if_exception(_may_pass),
        wait=_pause,
        sleep=sleep,
        reraise=True,
    )


def failure(response: httpx.Response, who: str) -> ApiError:
    """What a response other than 200 means."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = response.text
    said = scrubbed(rejections.words(body) or response.text or response.reason_phrase, response.request)
    return failure_of(response.status_code, body, said, who, response.headers)


def failure_of(status: int, body: object, said: str, who: str, headers: Mapping[str, str] = {}) -> ApiError:
    """What an error of this status means, whose `body` says this."""
    verdict = rejections.verdict(status, body)
    worded = asked_in_words(rejections.words(body)) if status in (429, 503) else None
    if verdict is None and worded is None and rejections.no_money(status, body):
        message = f"{who} has no money left ({said}); waiting does not help"
        return ApiError(message, status=status, said=said, body=body)
    if verdict in (None, "unclear") and (status == 401 or (status == 403 and "logprobs" not in said)):
        message = f"{who} refuses the key ({status}: {said}); set the variable that `key_env` names"
        return ApiError(message, status=status, said=said, body=body, verdict=verdict)
    message = f"{who} answered {status}: {said}"
    if verdict in ("refused", "invalid"):
        return ApiError(message, status=status, said=said, body=body, verdict=verdict)
    passing = status in RETRIED or status >= 500
    retryable = {"true": True, "false": False}.get(headers.get("x-should-retry", ""), passing)
    wait = retry_after(headers)
    if wait is None:
        wait = worded
    if wait is None and status == 429:
        wait = used_up(headers)
    if wait is not None and wait >= _SHORTEST_WAIT:
        message = f"{message}; it asks to be left alone for {told(wait)}"
    return ApiError(message, retryable=retryable, wait=wait, status=status, said=said, body=body, verdict=verdict)


def unanswered(response: Mapping[str, Any], error: UnreadableError, who: str, request: httpx.Request) -> ApiError:
    """What a response of 200 without an answer means: the error that it holds, else that it could not be read."""
    found = rejections.trouble(response)
    if found is None:
        error.body, error.charged = response, True
        return error
    status, body = found
    return failure_of(status, body, scrubbed(rejections.words(body) or str(body), request), who)


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
        return min(asked, MINUTE) + random.uniform(0, 0.1)
    return min(0.5 * 2.0 ** (min(state.attempt_number, 9) - 1), 8.0) * random.uniform(0.75, 1.0)
