"""Parses what arrives on a connection: each request goes by the fast path, or through uvicorn to the app.

Heads are limited in size, and offers of another protocol are ignored.
"""

from __future__ import annotations

from typing import Any

import httptools

from service.errors import MethodNotAllowedError, ServiceError, VersionError
from service.server.connection import Connection, Headers
from service.server.fast_path import FastPath, FastRequest
from service.server.limits import HEAD_BYTES, HEADERS, PIPELINED, check_head, no_http
from service.server.upgrades import new_parser, without_offer

_VERSIONS = ("1.1", "1.0")
_CONNECT = b"CONNECT"


class Reader(Connection):
    """A connection whose plain requests are taken by `fast_path`, if there is one."""

    def __init__(self, *args: Any, fast_path: FastPath | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._fast_path = fast_path
        self._fast: FastRequest | None = None
        """The request on the fast path, from its head to its answer."""

        self._first = b""
        """The bytes that are being parsed, if they begin with a request and none is under way."""

    def data_received(self, data: bytes) -> None:
        """Answer a request whose head is known. Parse other bytes, a piece at a time, so that little more is held."""
        if (
            self._fast_path is not None
            and not self._reading
            and not self._ended
            and self._failure is None
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        ):
            known = self._fast_path.recall(self, data)
            if known is not None and self._answer(*known):
                return
            self._first = data
        for at in range(0, len(data), HEAD_BYTES):
            piece = data if len(data) <= HEAD_BYTES else data[at : at + HEAD_BYTES]
            if self._failure is not None or self._ended:
                self._drop(len(piece))
                continue
            try:
                self._parse(piece)
                if self._reading:
                    self._wait(len(piece))
            except ServiceError as error:
                self._fail(error)
            except httptools.HttpParserError as error:
                cause = error.__context__  # an error raised in a callback
                if not isinstance(cause, ServiceError):
                    cause = no_http(piece, self.parser.get_method(), error)
                self._fail(cause)
        self._first = b""

    def on_message_begin(self) -> None:
        """Begin to read a request. Its scope is made in `_give_to_app`, where uvicorn needs one."""
        self._reading = self._in_head = True
        self._came = 0
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Check the head, and go on to the body. Raises ServiceError when the request is refused."""
        if self._ended:
            raise ServiceError("nothing is read behind the last answer")
        if self._came or len(self.headers) > HEADERS:  # a head in one piece cannot be too long
            check_head(self.url, self.headers)
        if len(self.pipeline) >= PIPELINED:
            raise self._limits.too_many_at_once()
        self.version = self.parser.get_http_version()
        if self.version not in _VERSIONS:
            raise VersionError(f"HTTP/{self.version} is not spoken here; ask by HTTP/1.1")
        if self.parser.should_upgrade():
            if self.parser.get_method() == _CONNECT:
                raise MethodNotAllowedError("this is no proxy, so there is no CONNECT here")
            return
        self._in_head = False
        headers = dict(self.headers)
        if self._fast_path is not None and (self.cycle is None or self.cycle.response_complete):
            request = self._fast_path.take(self, headers)
            if request is not None:
                self._take(request)
                return
        self._give_to_app(headers)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        if self._fast is not None and self.cycle is self._fast:
            self._fast.parts.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to answer, unless the parser only stopped at an offer of another protocol."""
        if self.parser.should_upgrade():
            return
        self._reading, self._waiting_since = False, None
        if self._held:
            self._release()
        if self._fast is not None and self.cycle is self._fast:
            if self._fast_path is not None and self._first:
                self._fast_path.learn(self._first, self._fast)
            body = self._fast.complete()
            if body is None:
                return
            headers = self._fast.context.headers
            self.cycle = self._fast = None
            self._give_to_app(headers)
            super().on_body(body)
        super().on_message_complete()

    def _take(self, request: FastRequest) -> None:
        self.cycle = self._fast = request
        if self._requests.keys is not None:
            request.admit()

    def _answer(self, request: FastRequest, body: bytes) -> bool:
        """Answer a request whose head is known. Return False if it is for the app, and to be parsed."""
        self._take(request)
        if not request.response_complete:
            request.parts.append(body)
        if request.complete() is None:
            return True
        self.cycle = self._fast = None
        return False

    def answered(self, *, keep_alive: bool) -> None:
        """Turn to the next request after an answer of the fast path, or close."""
        self._fast = None
        super().answered(keep_alive=keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        """Withdraw the request that is being answered, too."""
        request, self._fast = self._fast, None
        super().connection_lost(exc)
        if request is not None:
            request.disconnect()

    def _parse(self, data: bytes) -> None:
        """Parse bytes; where the parser stops at an offer of another protocol, go on as if there were no offer."""
        while True:  # not within `except`, where the offer would replace the error of a callback as context
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                head = without_offer(self.parser.get_method(), self.url, self.version, self.headers)
                data = head + data[offer.args[0] :]
                self.parser = new_parser(self)

    def _give_to_app(self, headers: dict[bytes, bytes]) -> None:
        """Let uvicorn begin a request whose head is complete, which calls the app."""
        url, several, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers += several
        super().on_headers_complete()
        self.headers = _Trailers()
        self.cycle.transport = self._ending
        if int(headers.get(b"content-length", 0)) > self._limits.message_bytes:
            self.cycle.keep_alive = False  # the body will not be read, so the next request cannot be

    def _fail_request(self, error: ServiceError) -> None:
        if self._fast is not None and self.cycle is self._fast:
            self._fast.fail(error)
        else:
            super()._fail_request(error)


class _Trailers(Headers):
    """Drops the headers behind a body in chunks, which nobody reads."""

    def append(self, header: tuple[bytes, bytes]) -> None:
        """Drop a header."""
