"""The errors of API calls: what each failure means, whether a retry may help, and what it may have cost.

`server` names the server in messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

from distill.teachers.api import rejections
from distill.teachers.api.gateways import refused_by_gateway
from distill.teachers.api.limit_headers import format_seconds, retry_after, retry_after_in, seconds_until_reset
from distill.teachers.api.rejections import Verdict
from distill.teachers.api.scrubbing import scrubbed
from distill.teachers.errors import TeacherError

RETRIED = frozenset({408, 409, 429})
_WITHOUT_DATABASE = "no connected db"
"""What LiteLLM without a database says of any key but its master key, with status 400."""

SHORTEST_WAIT = 1.0  # seconds: a shorter wait delays nobody


class ApiError(TeacherError):
    """A failed call.

    `wait` is how many seconds the server asked to wait, `status` the status of its response, `reason` its own words,
    `body` the whole response body. `verdict` classifies the text that was asked about; None means that the failure
    does not depend on the text. `charged` says that the server may charge for the call although no answer arrived.
    The client adds `turn`, the sequence number of the call, and what the call cost, in dollars and seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        wait: float | None = None,
        charged: bool = False,
        status: int | None = None,
        reason: str = "",
        body: object = None,
        verdict: Verdict | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.wait = wait
        self.charged = charged
        self.status = status
        self.reason = reason
        self.body = body
        self.verdict = verdict
        self.turn = 0
        self.cost_usd = 0.0
        self.seconds = 0.0


class UnreadableError(ApiError):
    """A response of status 200 without an answer; `lacks` says in a word or two what is missing.

    `transient` says that a retry may help even if the server never gave a readable answer.
    """

    def __init__(self, message: str, lacks: str = "", *, transient: bool = False) -> None:
        super().__init__(message, reason=f"no answer that can be read ({lacks})", verdict="unclear")
        self.lacks = lacks
        self.transient = transient


@contextmanager
def about(text: str) -> Iterator[None]:
    """Attach `text` to an ApiError that may be caused by it, unless the failure concerns every call."""
    try:
        yield
    except ApiError as error:
        if error.verdict is not None or error.retryable:
            error.text = text
        raise


@contextmanager
def transport_errors(server: str) -> Iterator[None]:
    """Turn httpx's errors into ApiError."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise ApiError(
            f"{server} cannot be reached ({error or type(error).__name__}); is base_url right, and the server up?",
            retryable=True,
        ) from error
    except httpx.TimeoutException as error:
        raise timed_out(server, type(error).__name__) from error
    except httpx.RequestError as error:
        # Without the bytes of headers or of a response that httpx may repeat.
        message = str(error).partition("b'")[0].partition("bytearray")[0].rstrip(" :")
        if not message or isinstance(error, httpx.LocalProtocolError):
            message = type(error).__name__
        raise _lost(f"{server} broke off its answer ({message})", "an answer that was broken off") from error


def timed_out(server: str, what: str) -> ApiError:
    """The error of an answer that did not come in time."""
    message = f"{server} did not answer in time ({what}); raise timeout_seconds if it is only slow"
    return _lost(message, "no answer in time")


def too_large(server: str, max_bytes: int) -> ApiError:
    """The error of an answer of more than `max_bytes`."""
    size = f"more than {max_bytes / 2**20:.3g} MiB"
    return _lost(
        f"{server} answers with {size}, which no answer to a question has; is base_url right? If it is, raise "
        "max_response_bytes",
        f"an answer of {size}",
        retryable=False,
    )


def not_an_object(server: str, what: str) -> ApiError:
    """The error of a response that is not a JSON object."""
    return _lost(f"{server} answered {what}", "an answer that is no JSON object")


def _lost(message: str, reason: str, *, retryable: bool = True) -> ApiError:
    """The error of an answer that the server may charge for, and that may depend on the text."""
    return ApiError(message, retryable=retryable, charged=True, reason=reason, verdict="unclear")


def error_of(response: httpx.Response, server: str) -> ApiError:
    """The error that a response of another status than 200 means."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = response.text
    reason = scrubbed(rejections.message_of(body) or response.text or response.reason_phrase, response.request)
    return error_of_status(response.status_code, body, " ".join(reason.split()), server, response.headers)


def error_of_status(status: int, body: object, reason: str, server: str, headers: Mapping[str, str] = {}) -> ApiError:
    """The error that a status means, given the body of the response and the scrubbed `reason` in it."""
    verdict = rejections.verdict(status, body)
    worded_wait = retry_after_in(rejections.message_of(body)) if status in (429, 503) else None
    if verdict is None and worded_wait is None and rejections.no_money(status, body):
        message = f"{server} has no money left ({reason}); waiting does not help"
        return ApiError(message, status=status, reason=reason, body=body)
    key_refused = status == 401 or (status == 403 and "logprobs" not in reason) or _WITHOUT_DATABASE in reason.lower()
    if verdict in (None, "unclear") and key_refused:
        message = f"{server} refuses the key ({status}: {reason}); set the variable that `key_env` names"
        return ApiError(message, status=status, reason=reason, body=body, verdict=verdict)
    if refused := refused_by_gateway(reason):
        return ApiError(f"{server}: {refused}", status=status, reason=reason, body=body)
    message = f"{server} answered {status}: {reason}"
    if verdict in ("refused", "invalid"):
        return ApiError(message, status=status, reason=reason, body=body, verdict=verdict)
    transient = status in RETRIED or status >= 500
    retryable = {"true": True, "false": False}.get(headers.get("x-should-retry", ""), transient)
    wait = retry_after(headers)
    if wait is None:
        wait = worded_wait
    if wait is None and status == 429:
        wait = seconds_until_reset(headers)
    if wait is not None and wait >= SHORTEST_WAIT:
        message = f"{message}; it asks to be left alone for {format_seconds(wait)}"
    return ApiError(message, retryable=retryable, wait=wait, status=status, reason=reason, body=body, verdict=verdict)


def error_of_unreadable(
    response: Mapping[str, object], error: UnreadableError, server: str, request: httpx.Request
) -> ApiError:
    """The error that a response of 200 without an answer means: the one that it holds, else `error`."""
    found = rejections.error_within(response)
    if found is None:
        error.body, error.charged = response, True
        return error
    status, body = found
    return error_of_status(status, body, scrubbed(rejections.message_of(body) or str(body), request), server)
