"""What every route knows of a request: its id, caller, headers, deadline, body and trace."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Self

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from service.auth.keys import Caller
from service.errors import InvalidRequestError, RateLimitedError, ServiceError, TooLargeError
from service.http.content_encoding import decoded
from service.http.error_body import ErrorBody
from service.settings import Settings
from service.telemetry.metrics import LIMITED
from service.telemetry.trace import Trace

REQUEST_ID = b"x-request-id"
TIMEOUT = b"x-request-timeout-ms"
VARIANT = b"x-reflux-variant"

ADMISSION = 1
"""How many texts a request with a body is charged for before the body is read, so that a wrong one costs that too."""

_SAFE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_PROCESS = os.urandom(8).hex()
_numbers = count()


async def gone() -> Message:
    """Report a disconnect: the `receive` of a request whose body does not come through ASGI."""
    return {"type": "http.disconnect"}


@dataclass(slots=True)
class RequestContext:
    """One request, from the end of its head to its answer."""

    settings: Settings
    request_id: str
    headers: dict[bytes, bytes]
    """Names in lower case; of a repeated header the last."""

    receive: Receive
    began: float
    """A time of `time.monotonic()`."""

    caller: Caller | None = None
    """The owner of the API key; None where no key is needed."""

    admission: str | None = None
    """The outcome of the check of the key, for the metrics; None where no key is needed."""

    trace: Trace | None = None
    """Collects the stages; None without tracing."""

    error_body: Callable[[ServiceError, str], BaseModel] = ErrorBody.of
    """Makes the body of an error, from it and the request's id, in the shape of the client's protocol."""

    fault: Exception | None = None
    """The service's own fault that was answered and logged here; Starlette raises it again, for the server to log."""

    @classmethod
    def begin(
        cls, settings: Settings, headers: dict[bytes, bytes], receive: Receive = gone, *, traced: bool = False
    ) -> Self:
        """Begin a request now, with the client's id where that is short and safe to log, else with a new one."""
        given = headers.get(REQUEST_ID)
        if given is not None and _SAFE_ID.fullmatch(given):
            request_id = given.decode()
        else:
            request_id = f"{_PROCESS}{next(_numbers):016x}"
        context = cls(settings, request_id, headers, receive, time.monotonic())
        if traced:
            context.trace = Trace(request_id, headers, context.began)
        return context

    @property
    def variant(self) -> str | None:
        """The variant that the client asks for by a header, if any."""
        given = self.headers.get(VARIANT)
        return None if given is None else given.decode("latin-1")

    def timeout(self, timeout_seconds: float | None = None) -> float | None:
        """Return the seconds there are for an answer: the least of the header, `timeout_seconds` and the setting.

        None when there is no limit. Raises InvalidRequestError when the header is not a number of milliseconds.
        """
        seconds = None if (given := self.headers.get(TIMEOUT)) is None else _seconds(given)
        for limit in (timeout_seconds, self.settings.timeout_seconds):
            if limit is not None and (seconds is None or limit < seconds):
                seconds = limit
        return seconds

    def spend(self, texts: int) -> None:
        """Charge the caller's key for `texts`. Raises RateLimitedError while nothing is left of its rate."""
        if self.caller is None:
            return
        try:
            self.caller.spend(texts, time.monotonic())
        except RateLimitedError:
            self.admission = LIMITED
            raise

    def spend_rest(self, texts: int) -> None:
        """Charge an admitted request for its texts, whatever is left; ADMISSION was charged with its head."""
        if self.caller is not None:
            self.caller.give_back(ADMISSION - texts)

    def give_back(self, texts: int) -> None:
        """Return the charge for `texts` that were not worked on."""
        if self.caller is not None:
            self.caller.give_back(texts)

    async def body(self) -> bytes:
        """Read the whole body, decompressed. Raises ClientDisconnect, TooLargeError, and what `decoded` raises."""
        limit = self.settings.max_body_bytes
        declared = self.headers.get(b"content-length", b"0")
        if int(declared) > limit:
            raise too_large(limit)
        parts: list[bytes] = []
        received = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            received += len(parts[-1])
            if received > limit:
                raise too_large(limit)
            if not message.get("more_body", False):
                break
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        encoding = self.headers.get(b"content-encoding")
        if encoding is None:
            return body
        body = decoded(body, encoding, limit)
        if len(body) > limit:
            raise too_large(limit)
        return body

    async def leaving(self) -> None:
        """Wait until the client has left. Only after the body was read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


def _seconds(given: bytes) -> float:
    """Return the header `X-Request-Timeout-Ms` in seconds."""
    try:
        milliseconds = float(given)
    except ValueError:
        milliseconds = 0.0
    if not 0 < milliseconds < float("inf"):
        raise InvalidRequestError("X-Request-Timeout-Ms: give milliseconds, a number above 0")
    return milliseconds / 1000


def too_large(limit: int) -> TooLargeError:
    """Make the error for a body of more than `limit` bytes."""
    return TooLargeError(f"the body has more than {limit} bytes; send fewer or shorter texts per request")


def context_of(request: Request) -> RequestContext:
    """Return the context that the middleware made for a request."""
    context: RequestContext = request.scope["state"]["context"]
    return context
