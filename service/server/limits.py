"""The limits that all connections of a port share, and the count of bytes held for their incomplete requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httptools
from pydantic import BaseModel

from service.errors import (
    BusyError,
    HeadTooLargeError,
    MalformedBodyError,
    ServiceError,
    TooLargeError,
    TooSlowError,
    VersionError,
)
from service.http.context import too_large
from service.settings import Settings

HEAD_BYTES = 64 * 1024
HEADERS = 256
"""The most bytes and headers of a request's head."""

PIPELINED = 64
"""How many requests of one connection may wait for their turn."""

LINGER_SECONDS = 5.0
LINGER_BODIES = 16
"""For how long, and up to how many bodies of the largest size, bytes are still read after the last answer. Closing
while the client is still sending could lose it the answer."""

LEFT_SECONDS = 1.0
"""How long a client that has closed its side of a connection may wait for its answer. Some still read it, such as
`nc -N`; others have gone, and nothing tells them apart."""

_REFUSED = 16
_BODIES = 64
_FRAMING = 8
"""Framing makes a body in chunks of one byte six times as long."""

_HTTP2 = b"PRI"
_TLS = b"\x16\x03"
_PIECE = 64
"""The memory of a piece beside its bytes."""


class ConnectionLimits:
    """The limits by the settings, and the bytes held for incomplete requests."""

    def __init__(self, settings: Settings) -> None:
        self.seconds = settings.receive_seconds
        self.body_bytes = settings.max_body_bytes
        self.most_connections = settings.max_connections
        self.most_refused = _REFUSED + settings.max_connections // 4
        """How many connections beyond the limit are still told why they are refused."""

        self.message_bytes = HEAD_BYTES + _FRAMING * settings.max_body_bytes
        """The most bytes of a whole request, chunk framing and trailers included."""

        self.linger_bytes = LINGER_BODIES * settings.max_body_bytes
        self._most = settings.max_unfinished_bytes or _BODIES * (settings.max_body_bytes + HEAD_BYTES)
        self.held = 0

    def hold(self, size: int) -> int:
        """Count a piece of `size` bytes as held, and return what to `release`. Raises BusyError when it is too much."""
        cost = size + _PIECE
        if self.held + cost > self._most:
            raise BusyError("too much is held of requests that have not come whole; send this one again, in one go")
        self.held += cost
        return cost

    def release(self, cost: int) -> None:
        """Count `cost` as no longer held."""
        self.held -= cost

    def too_slow(self) -> TooSlowError:
        """Make the error for a request that arrives too slowly."""
        return TooSlowError(f"the request did not come whole within {self.seconds:g} s; send it again, faster")

    def too_many(self) -> BusyError:
        """Make the error for a connection beyond the limit."""
        return BusyError(f"all {self.most_connections} connections are in use; try again, or ask another replica")

    def too_many_at_once(self) -> BusyError:
        """Make the error for too many pipelined requests."""
        return BusyError(f"more than {PIPELINED} requests wait on this connection; send the rest on another, or later")

    def too_long(self) -> TooLargeError:
        """Make the error for a body that is too long, or has too much framing."""
        return too_large(self.body_bytes)


def describe(document: dict[str, Any], error_shape: Callable[[str], type[BaseModel]]) -> None:
    """Add to an OpenAPI document the errors with which any operation may be refused by these limits."""
    described = {
        error.status_code: (error.__doc__ or "").partition("\n")[0]
        for error in (TooSlowError, HeadTooLargeError, BusyError, VersionError)
    }
    for path, operations in document["paths"].items():
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error_shape(path).__name__}"}}}
        for operation in operations.values():
            for status, description in described.items():
                operation["responses"].setdefault(str(status), {"description": description, "content": content})


def check_head(url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Raise HeadTooLargeError when a head is too long."""
    size = len(url) + sum(len(name) + len(value) + 4 for name, value in headers)
    if len(headers) > HEADERS or size > HEAD_BYTES:
        raise head_too_large()


def head_too_large() -> HeadTooLargeError:
    """Make the error for a head that is too large."""
    return HeadTooLargeError(
        f"the request line and the headers have more than {HEAD_BYTES} bytes or {HEADERS} headers; send fewer"
    )


def no_http(data: bytes, method: bytes, error: httptools.HttpParserError) -> ServiceError:
    """Make the error for bytes that are not HTTP/1.1."""
    if method == _HTTP2:
        return VersionError("HTTP/2 is not spoken here; ask by HTTP/1.1")
    if data.startswith(_TLS):
        return MalformedBodyError("this port speaks HTTP without TLS; ask for http://, not https://")
    reason = "its first line" if isinstance(error, httptools.HttpParserCallbackError) else error
    return MalformedBodyError(f"this is not HTTP/1.1: {reason}")
