"""One connection: opened within limits, idle, slow, failed, closed. How its bytes become requests is `reader`'s affair.

It is uvicorn's HTTP/1.1 protocol with limits on time, on the bytes held and on the number of connections. A client that
exceeds a limit gets an error in the service's own shape. The connection then stays open a little longer: closing it
while the client is still sending could lose it the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import ServiceError
from service.http.context import REQUEST_ID, RequestContext, gone
from service.http.error_responses import failure
from service.server.limits import (
    HEAD_BYTES,
    HEADERS,
    LEFT_SECONDS,
    LINGER_SECONDS,
    ConnectionLimits,
    head_too_large,
)
from service.server.middleware import RequestMiddleware

Headers = list[tuple[bytes, bytes]]

CLOSE = (b"connection", b"close")

_OK = 200
_UNKNOWN = "-"


class Connection(HttpToolsProtocol):
    """One connection to the app of uvicorn's configuration."""

    cycle: Any
    """The latest request: a cycle of uvicorn's, or a FastRequest."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.app = self._serve
        self._limits: ConnectionLimits = self.config.app.state.limits  # type: ignore[union-attr]
        self._requests: RequestMiddleware = self.config.app.state.requests  # type: ignore[union-attr]
        self.url, self.version = b"", ""
        self._reading = self._in_head = False
        """Whether a request has begun to arrive and is not complete, and whether its head is not."""

        self._came = self._held = 0
        """Bytes received of the incomplete request, and what the limits count as held for it."""

        self._failure: ServiceError | None = None
        """Why no more requests are read. Further bytes are dropped."""

        self._cut: object = None
        """The scope of the request that failed while the app was reading it."""

        self._ended = False
        """Whether the last answer of this connection was written."""

        self._waiting_since: float | None = None
        """When the incomplete request began to arrive, by the event loop's clock."""

        self._timer: asyncio.TimerHandle | None = None
        """Ends a request that arrives too slowly, and the connection after its last answer. It is not cancelled when
        a request is complete: a new timer for each request would cost more."""

        self._unread: asyncio.TimerHandle | None = None
        """Ends the connection of a client that does not read its answers."""

        self._idle_since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request if there is room for another connection, else refuse it."""
        super().connection_made(transport)
        self._ending = _Transport(transport, self.close)
        beyond = len(self.connections) - self._limits.most_connections
        if beyond > self._limits.most_refused:
            transport.abort()
        elif beyond > 0 and not self._make_room():
            self._fail(self._limits.too_many())
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

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

    def pause_writing(self) -> None:
        """Wait for the client to read its answers, for a limited time."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing: the client has read its answers."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers and release what is held."""
        self._stop_waiting()
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        self.app, self._ending.close = self.config.loaded_app, self.transport.close  # break cycles

    @property
    def busy(self) -> bool:
        """Whether a request has begun and has no answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def close(self) -> None:
        """Close; where the client may still be sending, only after it has had time to read its answer."""
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
            self._abort_after(self._limits.seconds)  # if the client does not read

    def on_response_complete(self) -> None:
        """Turn to the next request, or wait for it."""
        self._idle_since = self.loop.time()
        if self._ended:
            return
        if self._held and not self._in_head and not self.pipeline:  # answered before its body was complete
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
        """Close the connection if it has been idle for `timeout_keep_alive` seconds."""
        self.timeout_keep_alive_task = None
        if self.busy:  # the answer will start this anew
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if self._reading:  # the incomplete request has a limit of its own
            left = self.timeout_keep_alive
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            self.close()

    def answered(self, *, keep_alive: bool) -> None:
        """Turn to the next request after an answer that was written without uvicorn's cycle, or close."""
        if not keep_alive:
            self.close()
        self.on_response_complete()

    def write(
        self,
        context: RequestContext,
        outcome: bytes | Exception,
        method: str,
        default_headers: Headers,
        *,
        keep_alive: bool,
    ) -> int:
        """Write an answer, JSON or an error, without uvicorn's cycle, and return its status."""
        code, more = _OK, b""
        if isinstance(outcome, Exception):
            known, content = failure(context, outcome, method)
            code, outcome = known.status_code, content.encode()
            more = b"".join([f"{name}: {value}\r\n".encode() for name, value in known.headers.items()])
        more += b"".join([b"%b: %b\r\n" % header for header in default_headers])
        if not keep_alive and CLOSE not in default_headers:
            more += b"connection: close\r\n"
        self.transport.write(
            b"%bcontent-length: %d\r\ncontent-type: application/json\r\n%b: %b\r\n%b\r\n%b"
            % (STATUS_LINE[code], len(outcome), REQUEST_ID, context.request_id.encode(), more, outcome)
        )
        return code

    def _unset_keepalive_if_required(self) -> None:
        """Keep uvicorn's idle timer, which checks `_idle_since`: a new one for each request would cost more."""

    def _wait(self, size: int) -> None:
        """Count `size` more bytes of an incomplete request. Raises ServiceError when they are too many."""
        limits = self._limits
        self._came += size
        if self._in_head:
            if self._came > HEAD_BYTES or len(self.headers) > HEADERS:
                raise head_too_large()
        elif self._came > limits.message_bytes:
            raise limits.too_long()
        if self._in_head or self.busy:
            self._held += limits.hold(size)
        else:  # already answered, so the rest is not kept
            self._release()
        if self._waiting_since is None:
            self._waiting_since = self.loop.time()
            if self._timer is None:
                self._timer = self.loop.call_later(limits.seconds, self._look)

    def _stop_waiting(self) -> None:
        self._reading, self._waiting_since = False, None
        if self._held:
            self._release()

    def _release(self) -> None:
        self._limits.release(self._held)
        self._held = 0

    def _look(self) -> None:
        """Fail a request that arrives too slowly, unless it waits for an earlier one."""
        self._timer = None
        if self._waiting_since is None:
            return
        if self.pipeline or (self._in_head and self.busy):
            self._waiting_since = self.loop.time()
        left = self._waiting_since + self._limits.seconds - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._look)
        else:
            self._fail(self._limits.too_slow())

    def _abort_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _drop(self, size: int) -> None:
        """Drop bytes that nobody needs, up to a limit, so that the client can read its answer."""
        self._came += size
        if self._came > self._limits.linger_bytes:
            self.transport.abort()

    def _fail(self, error: ServiceError) -> None:
        """Stop reading; the incomplete request gets the error in its turn, and the connection closes."""
        if self._ended:
            return
        self._failure = error.with_traceback(None)  # its frames hold what was read
        self._release()
        if self._in_head or not self._reading:
            if not self.busy and not self.pipeline:
                self._end(error)
        elif self.cycle.response_complete:
            self.close()
        else:
            self._fail_request(error)

    def _fail_request(self, error: ServiceError) -> None:
        """Make the request whose body is arriving fail with an error, and close after it."""
        self._cut = self.scope
        self.cycle.keep_alive = False
        self.cycle.body.clear()
        self.cycle.message_event.set()  # `_serve` raises the error

    def _end(self, error: ServiceError) -> None:
        """Answer a request without a complete head with an error, and close."""
        context = RequestContext.begin(self._requests.settings, dict(self.headers or ()), traced=self._requests.traced)
        context.error_body = self._requests.error_shape(self.url.partition(b"?")[0].decode("latin-1")).of
        code = self.write(context, error, _UNKNOWN, self.server_state.default_headers, keep_alive=False)
        self._requests.record(context, _UNKNOWN, None, code)
        self._reading = True  # the client may go on sending
        self.close()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app, whose `receive` raises the error when reading its request has failed."""

        async def come() -> Message:
            message = await receive() if self._cut is not scope else await gone()
            if self._cut is scope and self._failure is not None:
                raise self._failure
            return message

        await self.config.loaded_app(scope, come, send)

    def _make_room(self) -> bool:
        """Close the connections idle for longest, else fail the slowest requests. Return whether there were any."""
        others = [one for one in self.connections if isinstance(one, Connection) and one is not self and not one._ended]
        few = 1 + self._limits.most_connections // 64
        idle = sorted((one for one in others if not (one.busy or one._reading)), key=lambda one: one._idle_since)
        for one in idle[:few]:
            one.close()
        if idle:
            return True
        coming = [(one._waiting_since, one) for one in others if one._failure is None]
        slow = sorted(((since, id(one), one) for since, one in coming if since is not None))[:few]
        for _, _, one in slow:
            one._fail(self._limits.too_many())
        return bool(slow)


class _Transport:
    """What uvicorn uses of a transport to answer, with our own `close`."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close
