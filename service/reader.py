"""HTTP/1.1 as uvicorn speaks it, read with limits: on a head, on time, on what is held, on the connections.

Whoever breaks one is answered in the one shape, and reads that answer: a connection is not closed over what the client
is still sending. An offer of another protocol is left unanswered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.door import (
    HEAD_BYTES,
    HEADERS,
    LEFT_SECONDS,
    LINGER_SECONDS,
    PIPELINED,
    Door,
    check_head,
    head_too_large,
    no_http,
)
from service.errors import MethodNotAllowedError, ServiceError, VersionError, failure
from service.exchange import Exchange
from service.headers import CLOSE, Headers, written
from service.middleware import REQUEST_ID, RequestMiddleware
from service.upgrades import new_parser, without_offer

OK = 200
_UNKNOWN = "-"
_VERSIONS = ("1.1", "1.0")
_CONNECT = b"CONNECT"
_GONE: Message = {"type": "http.disconnect"}


class Reader(HttpToolsProtocol):
    """One connection, whose requests all go through the app."""

    cycle: Any
    """The request that came last: uvicorn's, or one of a subclass."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.app = self._serve
        self._door: Door = self.config.app.state.door  # type: ignore[union-attr]
        self._requests: RequestMiddleware = self.config.app.state.requests  # type: ignore[union-attr]
        self.url, self.version = b"", ""
        self._reading = self._in_head = False
        """Whether a part of a request has come and not the whole, and whether that is a part of its head."""

        self._came = self._held = 0
        """How many bytes have come of what is being read, and what is counted as held for it."""

        self._failure: ServiceError | None = None
        """Why no more is read. What still comes is for nobody."""

        self._cut: object = None
        """The request that failed, where the app has it."""

        self._ended = False
        """Whether the last answer was written."""

        self._waiting_since: float | None = None
        """Since when a request has been coming that has not come whole."""

        self._timer: asyncio.TimerHandle | None = None
        """Looks how long that is, and ends the connection after the last answer. It is left where it is not needed
        any more, for a new one for each request costs more."""

        self._unread: asyncio.TimerHandle | None = None
        """Ends the connection where answers are not read."""

        self._idle_since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, where there is room for another connection."""
        super().connection_made(transport)
        self._ending = _Transport(transport, self.close)
        beyond = len(self.connections) - self._door.most_connections
        if beyond > self._door.most_refused:
            transport.abort()
        elif beyond > 0 and not self._make_room():
            self._fail(self._door.too_many())
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def data_received(self, data: bytes) -> None:
        """Give bytes to the parser, a piece at a time: of what has not come whole no more is held than may be."""
        if len(data) <= HEAD_BYTES:
            self._read(data)
        else:
            for at in range(0, len(data), HEAD_BYTES):
                self._read(data[at : at + HEAD_BYTES])

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer what has come whole, but not for long: the client may still read, or be gone. Else close."""
        failed = self._failure is not None  # which ends the connection in its turn
        in_body = self._reading and not self._in_head and not failed
        if self._ended or in_body or not self.busy:
            return False
        self._stop_waiting()
        self.cycle.keep_alive = self.cycle.keep_alive and failed
        self._abort_after(LEFT_SECONDS)
        return True

    def on_message_begin(self) -> None:
        """Begin to read a request. Its scope is made when it is needed."""
        self._reading = self._in_head = True
        self._came = 0
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. What comes behind a body in chunks is none."""
        if self._in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Go on to the body. Raises ServiceError for a request that is not to be read any further."""
        if self._ended:
            raise ServiceError("nothing is read behind the last answer")
        if self._came or len(self.headers) > HEADERS:  # one that came in one piece is not too long
            check_head(self.url, self.headers)
        if len(self.pipeline) >= PIPELINED:
            raise self._door.too_many_at_once()
        self.version = self.parser.get_http_version()
        if self.version not in _VERSIONS:
            raise VersionError(f"HTTP/{self.version} is not spoken here; ask by HTTP/1.1")
        if not self.parser.should_upgrade():
            self._in_head = False
            self.begin(dict(self.headers))
        elif self.parser.get_method() == _CONNECT:
            raise MethodNotAllowedError("this is no proxy, so there is no CONNECT here")

    def begin(self, headers: dict[bytes, bytes]) -> None:
        """Take a request whose head has come: uvicorn goes on from there."""
        url, several, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers += several
        super().on_headers_complete()
        self.cycle.transport = self._ending
        if int(headers.get(b"content-length", 0)) > self._door.message_bytes:
            self.cycle.keep_alive = False  # nobody will read so much for the next one's sake

    def on_message_complete(self) -> None:
        """Begin to answer, unless a parser only stopped at an offer."""
        if not self.parser.should_upgrade():
            self._stop_waiting()
            self.complete()

    def complete(self) -> None:
        """Take a request that has come whole."""
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Wait for the client to read its answers; not for ever."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._door.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free what the client waited for."""
        self._stop_waiting()
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        self.app, self._ending.close = self.config.loaded_app, self.transport.close  # these kept the connection

    @property
    def busy(self) -> bool:
        """Whether a request has begun and has no answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def close(self) -> None:
        """Close. Where the client may still be sending, it first gets the time to read its answer."""
        if self._ended:
            return
        self._ended = True
        self._release()
        if self._reading and not self.transport.is_closing():
            self._came = 0
            self.flow.resume_reading()
            self.transport.write_eof()
            self._abort_after(LINGER_SECONDS)
        else:
            self.transport.close()
            self._abort_after(self._door.seconds)  # for who does not read

    def on_response_complete(self) -> None:
        """Turn to the next request, or wait for it."""
        self._idle_since = self.loop.time()
        if self._ended:
            return
        if self._held and not self._in_head and not self.pipeline:  # it was answered before it had come whole
            self._release()
        if self._failure is not None and not self.pipeline:
            self._end(self._failure)
        elif self.pipeline or self.timeout_keep_alive_task is None:
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            if not self.transport.is_closing():
                self.flow.resume_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been idle for long."""
        self.timeout_keep_alive_task = None
        if self.busy:  # the answer will start this anew
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if self._reading:  # it has a time of its own
            left = self.timeout_keep_alive
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            self.close()

    def write(
        self, exchange: Exchange, outcome: bytes | Exception, method: str, default_headers: Headers, *, keep_alive: bool
    ) -> int:
        """Write an answer, JSON or an error, past uvicorn, and return its status."""
        code, more = OK, b""
        if isinstance(outcome, Exception):
            known, content = failure(exchange, outcome, method)
            code, outcome = known.status_code, content.encode()
            more = b"".join(f"{name}: {value}\r\n".encode() for name, value in known.headers.items())
        defaults = written(default_headers)
        closing = b"" if keep_alive or CLOSE in default_headers else b"connection: close\r\n"
        self.transport.write(
            b"%bcontent-length: %d\r\ncontent-type: application/json\r\n%b: %b\r\n%b%b%b\r\n%b"
            % (
                STATUS_LINE[code],
                len(outcome),
                REQUEST_ID,
                exchange.request_id.encode(),
                more,
                defaults,
                closing,
                outcome,
            )
        )
        return code

    def fail(self, error: ServiceError) -> None:
        """Answer the request whose body is being read with an error, and close."""
        self._cut = self.scope
        self.cycle.keep_alive = False
        self.cycle.body.clear()
        self.cycle.message_event.set()  # for `_serve`

    def _unset_keepalive_if_required(self) -> None:
        """Leave the timer, which looks how long the connection was idle: a new one for each request costs more."""

    def _read(self, data: bytes) -> None:
        """Read no more than a piece."""
        if self._failure is not None or self._ended:
            self._drop(len(data))
            return
        try:
            self._parse(data)
            if self._reading:
                self._wait(len(data))
        except ServiceError as error:
            self._fail(error)
        except httptools.HttpParserError as error:
            cause = error.__context__  # what a callback raised
            self._fail(cause if isinstance(cause, ServiceError) else no_http(data, self.parser.get_method(), error))

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                head = without_offer(self.parser.get_method(), self.url, self.version, self.headers)
                data = head + data[offer.args[0] :]
                self.parser = new_parser(self)

    def _wait(self, size: int) -> None:
        """Wait for the rest of a request, of which `size` bytes have come. Raises ServiceError when it is too much."""
        door = self._door
        self._came += size
        if self._in_head:
            if self._came > HEAD_BYTES or len(self.headers) > HEADERS:
                raise head_too_large()
        elif self._came > door.message_bytes:
            raise door.too_long()
        if self._in_head or self.busy:
            self._held += door.hold(size)
        else:  # it has its answer, and the rest is not kept
            self._release()
        if self._waiting_since is None:
            self._waiting_since = self.loop.time()
            if self._timer is None:
                self._timer = self.loop.call_later(door.seconds, self._look)

    def _stop_waiting(self) -> None:
        self._reading, self._waiting_since = False, None
        if self._held:
            self._release()

    def _release(self) -> None:
        self._door.release(self._held)
        self._held = 0

    def _look(self) -> None:
        """Give up a request that takes too long, unless what holds it up is one before it."""
        self._timer = None
        if self._waiting_since is None:
            return
        if self.pipeline or (self._in_head and self.busy):
            self._waiting_since = self.loop.time()
        left = self._waiting_since + self._door.seconds - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._look)
        else:
            self._fail(self._door.too_slow())

    def _abort_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _drop(self, size: int) -> None:
        """Read what is for nobody, so that the client reads its answer; not for ever."""
        self._came += size
        if self._came > self._door.linger_bytes:
            self.transport.abort()

    def _fail(self, error: ServiceError) -> None:
        """Read no more; what is being read gets an error when its turn has come, and the connection closes."""
        if self._ended:
            return
        self._failure = error.with_traceback(None)  # whose frames have what was read
        self._release()
        if self._in_head or not self._reading:
            if not self.busy and not self.pipeline:
                self._end(error)
        elif self.cycle.response_complete:
            self.close()
        else:
            self.fail(error)

    def _end(self, error: ServiceError) -> None:
        """Answer what is no request with an error, and close."""
        exchange = self._requests.exchange(dict(self.headers or ()), gone)
        exchange.error_body = self._requests.error_shape(self.url.partition(b"?")[0].decode("latin-1")).of
        code = self.write(exchange, error, _UNKNOWN, self.server_state.default_headers, keep_alive=False)
        self._requests.record(exchange, _UNKNOWN, None, code)
        self._reading = True  # whatever the client goes on to send
        self.close()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request by the app, which learns from its `receive` that no more will come."""

        async def come() -> Message:
            message = await receive() if self._cut is not scope else _GONE
            if self._cut is scope and self._failure is not None:
                raise self._failure
            return message

        await self.config.loaded_app(scope, come, send)

    def _make_room(self) -> bool:
        """Close connections that have been idle for longest, else those whose requests have; false where none is."""
        others = [one for one in self.connections if isinstance(one, Reader) and one is not self and not one._ended]
        few = 1 + self._door.most_connections // 64
        idle = sorted((one for one in others if not (one.busy or one._reading)), key=lambda one: one._idle_since)
        for one in idle[:few]:
            one.close()
        if idle:
            return True
        coming = [(one._waiting_since, one) for one in others if one._failure is None]
        slow = sorted(((since, id(one), one) for since, one in coming if since is not None))[:few]
        for _, _, one in slow:
            one._fail(self._door.too_many())
        return bool(slow)


class _Transport:
    """What uvicorn needs of a transport to answer, with another end."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


async def gone() -> Message:
    """Nothing more comes."""
    return _GONE
