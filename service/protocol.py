"""HTTP/1.1 as uvicorn speaks it, with a short way for the routes that have one.

There a whole request becomes bytes to write, with no ASGI scope, task or message in between. That way is for plain
requests alone; whatever is special about another, such as a body in chunks or one that the route does not understand,
is a matter of the usual way. A request that comes when there are too many may be refused before it is even parsed, and
a head that was parsed before is not parsed again.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import structlog
from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.hot import HotRoute
from service.engine.runner import Withdraw
from service.errors import failure
from service.exchange import Exchange
from service.headers import CLOSE, Headers, written
from service.heads import Heads
from service.middleware import DISCONNECTED, REQUEST_ID, RequestMiddleware
from service.refusals import Refusals

logger = structlog.get_logger(__name__)

_OK = 200
_POST = "POST"


class Plain(NamedTuple):
    """The head of a request that takes the short way."""

    route: HotRoute
    headers: dict[bytes, bytes]


class Protocol(HttpToolsProtocol):
    """One connection."""

    cycle: Any
    """The request that came last: uvicorn's, or one of ours."""

    def __init__(
        self, *args: Any, refusals: Refusals | None = None, heads: Heads[Plain] | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        edge = self.config.app.state.edge  # type: ignore[union-attr]
        self._edge: RequestMiddleware | None = edge if isinstance(edge, RequestMiddleware) else None
        self._refusals = refusals
        self._heads: Heads[Plain] = Heads(0) if heads is None else heads
        self._direct: _Cycle | None = None
        """The request that takes the short way, from its headers to its answer."""

        self._reading = False
        """Whether a part of a request has come, and not the whole."""

        self._first = b""
        """The bytes that are being read, where a request may begin with them and nothing is under way."""

        self._idle_since = 0.0

    def data_received(self, data: bytes) -> None:
        """Refuse a request at once, answer one whose head is known, or read on."""
        if self._reading or self.busy or self.flow.write_paused:
            super().data_received(data)
            return
        refusal = None
        if self._refusals is not None:
            refusal = self._refusals.answer(data, self.server_state.default_headers)
        if refusal is not None:
            self.transport.write(refusal)
            self.on_response_complete()
            return
        known = self._heads.of(data)
        if known is not None:
            head, body = known
            if self._answer(self._begin(head.route, head.headers), body):
                return
        self._first = data
        super().data_received(data)
        self._first = b""

    def on_message_begin(self) -> None:
        """Begin to read a request. Its scope is made when it is needed."""
        self._reading = True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Choose the way of a request."""
        headers = dict(self.headers)
        route = self._short_way(headers)
        if route is None:
            self._usual_way()
        else:
            self._begin(route, headers)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        if self._direct is not None and self.cycle is self._direct:
            self._direct.parts.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to answer."""
        self._reading = False
        if self._direct is None or self.cycle is not self._direct:
            super().on_message_complete()
            return
        cycle, body = self._direct, b"".join(self._direct.parts)
        cycle.parts.clear()  # an idle connection keeps its last request
        self._heads.learn(self._first, Plain(cycle.route, cycle.exchange.headers))
        if not self._answer(cycle, body):
            self._usual_way()
            super().on_body(body)
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free what the client waited for."""
        cycle, self._direct = self._direct, None
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        if cycle is None:
            return
        if cycle.withdraw is not None:
            cycle.withdraw()
            cycle.withdraw = None
        if self._edge is not None:
            self._edge.record(cycle.exchange, _POST, cycle.route.path, DISCONNECTED)

    @property
    def busy(self) -> bool:
        """Whether a request has begun and has no answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Turn to the next request, or wait for it."""
        self._idle_since = self.loop.time()
        if self.pipeline or self.timeout_keep_alive_task is None:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been idle for long."""
        self.timeout_keep_alive_task = None
        if self.busy or self._reading:  # the answer will start this anew
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def _unset_keepalive_if_required(self) -> None:
        """Leave the timer, which looks how long the connection was idle: a new one for each request costs more."""

    def _usual_way(self) -> None:
        """Let uvicorn go on from the headers."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers += headers
        super().on_headers_complete()

    def _short_way(self, headers: dict[bytes, bytes]) -> HotRoute | None:
        """The route that answers a request directly; None for all that is not plain."""
        if self._edge is None or (route := self._edge.direct.get(self.url)) is None:
            return None
        plain = (
            not self.busy
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and b"transfer-encoding" not in headers
            and int(headers.get(b"content-length", self._edge.max_body_bytes + 1)) <= self._edge.max_body_bytes
        )
        return route if plain else None

    def _begin(self, route: HotRoute, headers: dict[bytes, bytes]) -> _Cycle:
        """Take a request the short way."""
        assert self._edge is not None
        exchange = self._edge.exchange(headers, _disconnected)
        self.cycle = self._direct = cycle = _Cycle(route, exchange, self.server_state.default_headers)
        return cycle

    def _answer(self, cycle: _Cycle, body: bytes) -> bool:
        """Answer a request now or later; false when it is for the usual way."""
        edge, exchange, route = self._edge, cycle.exchange, cycle.route
        assert edge is not None
        assert route.direct is not None

        respond = partial(self._respond, cycle)
        try:
            edge.admit(exchange, _POST, route.path)
            cycle.withdraw = route.direct(exchange, body, respond)
        except Exception as error:  # what no handler expected is still answered in the one shape
            respond(error)
            return True
        if cycle.withdraw is not None or cycle.response_complete:
            return True
        self._direct = self.cycle = None
        return False

    def _respond(self, cycle: _Cycle, outcome: bytes | Exception) -> None:
        """Write an answer, and turn to the next request."""
        edge, exchange = self._edge, cycle.exchange
        assert edge is not None
        code, more = _OK, b""
        if isinstance(outcome, Exception):
            known, content = failure(exchange, outcome, _POST)
            code, outcome = known.status_code, content.encode()
            more = b"".join(f"{name}: {value}\r\n".encode() for name, value in known.headers.items())
        self._direct = cycle.withdraw = None  # else each would keep the other until the collector looks
        defaults = written(cycle.default_headers)
        closing = b"" if cycle.keep_alive or CLOSE in cycle.default_headers else b"connection: close\r\n"
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
        cycle.response_complete = True
        edge.record(exchange, _POST, cycle.route.path, code)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


class _Cycle:
    """A request on the short way, with what uvicorn asks of any."""

    __slots__ = (
        "default_headers",
        "disconnected",
        "exchange",
        "keep_alive",
        "message_event",
        "parts",
        "response_complete",
        "route",
        "withdraw",
    )

    def __init__(self, route: HotRoute, exchange: Exchange, default_headers: Headers) -> None:
        self.route = route
        self.exchange = exchange
        self.default_headers = default_headers
        self.parts: list[bytes] = []
        self.withdraw: Withdraw | None = None
        self.keep_alive = CLOSE not in default_headers
        self.response_complete = self.disconnected = False
        self.message_event = _NOBODY


class _Nobody:
    """An event that nobody waits for."""

    def set(self) -> None:
        pass


_NOBODY = _Nobody()


async def _disconnected() -> Message:
    """Nothing more comes: the whole request was there."""
    return {"type": "http.disconnect"}
