"""One request as every route knows it: its id, who asks, its headers, its deadline, its body, and its trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from service.auth.keys import Caller
from service.errors import InvalidRequestError, RateLimitedError, ServiceError, TooLargeError
from service.http.error_body import ErrorBody
from service.settings import Settings
from service.telemetry.metrics import LIMITED
from service.telemetry.trace import Trace

TIMEOUT = b"x-request-timeout-ms"
VARIANT = b"x-reflux-variant"

ADMISSION = 1
"""A request with a body costs as much as so many texts before it is read: a wrong one costs that, too."""


@dataclass(slots=True)
class Exchange:
    """What the middleware knows of a request before any route sees it."""

    settings: Settings
    request_id: str
    headers: dict[bytes, bytes]
    """Names in lower case; of a repeated header the last."""

    receive: Receive
    began: float
    """A time of `time.monotonic()`."""

    caller: Caller | None = None
    """Whose API key it has; None where none is needed."""

    admission: str | None = None
    """What became of it when its key was checked, for the metrics; None where no key is needed."""

    trace: Trace | None = None
    """Gathers the stages; None where tracing is off."""

    error_body: Callable[[ServiceError, str], BaseModel] = ErrorBody.of
    """Makes the body of an error, from it and the request's id, in the shape that the client's protocol has."""

    fault: Exception | None = None
    """The fault of the service that was told and logged; Starlette raises it once more for the server to log."""

    @property
    def variant(self) -> str | None:
        """The variant that the client asks for, if any."""
        given = self.headers.get(VARIANT)
        return None if given is None else given.decode("latin-1")

    def deadline(self, timeout_seconds: float | None = None) -> float | None:
        """When the answer must be there, by the client's header, by `timeout_seconds` and by the service's setting.

        A time of `time.monotonic()`. Raises InvalidRequestError when the header is not a number of milliseconds.
        """
        seconds = None if (given := self.headers.get(TIMEOUT)) is None else _seconds(given)
        for limit in (timeout_seconds, self.settings.timeout_seconds):
            if limit is not None and (seconds is None or limit < seconds):
                seconds = limit
        return None if seconds is None else self.began + seconds

    def spend(self, texts: int) -> None:
        """Count texts towards the rate of the caller's key. Raises RateLimitedError while none is left."""
        if self.caller is None:
            return
        try:
            self.caller.spend(texts, time.monotonic())
        except RateLimitedError:
            self.admission = LIMITED
            raise

    def spend_rest(self, texts: int) -> None:
        """Count the texts of a request that was let in, whatever is left: one of them was counted with the head."""
        self.give_back(ADMISSION - texts)

    def give_back(self, texts: int) -> None:
        """Count texts no more for which nothing was done."""
        if self.caller is not None:
            self.caller.give_back(texts)

    async def body(self) -> bytes:
        """Read the whole body. Raises TooLargeError, ClientDisconnect."""
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
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def leaving(self) -> None:
        """Wait until the client has left. Only after the body was read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


def _seconds(given: bytes) -> float:
    """The seconds that the header `X-Request-Timeout-Ms` gives."""
    try:
        milliseconds = float(given)
    except ValueError:
        milliseconds = 0.0
    if not 0 < milliseconds < float("inf"):
        raise InvalidRequestError("X-Request-Timeout-Ms: give milliseconds, a number above 0")
    return milliseconds / 1000


def too_large(limit: int) -> TooLargeError:
    """Say that a body has more than `limit` bytes."""
    return TooLargeError(f"the body has more than {limit} bytes; send fewer or shorter texts per request")


def exchange_of(request: Request) -> Exchange:
    """Return what the middleware knows of a request."""
    exchange: Exchange = request.scope["state"]["exchange"]
    return exchange
