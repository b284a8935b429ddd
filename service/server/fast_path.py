"""A short way through the server for plain requests to hot routes: no ASGI scope, task or message in between.

Everything else, such as a body in chunks or one that the route does not understand, takes the usual way, through
uvicorn and the app. Under overload a request may be refused before it is parsed, and a head that was parsed before is
not parsed again.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from service.errors import ServiceError
from service.http.context import ADMISSION, Exchange
from service.http.hot import HotRoute
from service.inference.runner import Withdraw
from service.server.headers import CLOSE, Headers
from service.server.heads import Heads
from service.server.middleware import DISCONNECTED
from service.server.reader import Reader, gone
from service.server.refusals import Refusals

_POST = "POST"


class Plain(NamedTuple):
    """The head of a request that takes the short way."""

    route: HotRoute
    headers: dict[bytes, bytes]


class Protocol(Reader):
    """One connection, with the short way."""

    def __init__(
        self, *args: Any, refusals: Refusals | None = None, heads: Heads[Plain] | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        edge = self.config.app.state.edge  # type: ignore[union-attr]
        self._routes = self._requests.direct if edge is self._requests else {}
        self._refusals = refusals
        self._heads: Heads[Plain] = Heads(0) if heads is None else heads
        self._direct: _Cycle | None = None
        """The request that takes the short way, from its headers to its answer."""

        self._first = b""
        """The bytes that are being read, where a request may begin with them and nothing is under way."""

    def data_received(self, data: bytes) -> None:
        """Refuse a request at once, answer one whose head is known, or read on."""
        if self._reading or self.busy or self.flow.write_paused or self._failure is not None:
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
            cycle = self._take(head.route, head.headers)
            if cycle is None or self._answer(cycle, body):
                return
        self._first = data
        super().data_received(data)
        self._first = b""

    def begin(self, headers: dict[bytes, bytes]) -> None:
        """Choose the way of a request."""
        route = self._short_way(headers)
        if route is None:
            super().begin(headers)
        else:
            self._take(route, headers)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        if self._direct is not None and self.cycle is self._direct:
            self._direct.parts.append(body)
        else:
            super().on_body(body)

    def complete(self) -> None:
        """Begin to answer."""
        if self._direct is None or self.cycle is not self._direct:
            super().complete()
            return
        cycle, body = self._direct, b"".join(self._direct.parts)
        cycle.parts.clear()  # an idle connection keeps its last request
        self._heads.learn(self._first, Plain(cycle.route, cycle.exchange.headers))
        if not self._answer(cycle, body):
            super().begin(cycle.exchange.headers)
            super().on_body(body)
            super().complete()

    def fail(self, error: ServiceError) -> None:
        """Make the request whose body is arriving fail with an error, and close after it."""
        if self._direct is None or self.cycle is not self._direct:
            super().fail(error)
        else:
            self._direct.keep_alive = False
            self._direct.parts.clear()
            self._respond(self._direct, error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free what the client waited for."""
        cycle, self._direct = self._direct, None
        super().connection_lost(exc)
        if cycle is None:
            return
        if cycle.withdraw is not None:
            cycle.withdraw()
            cycle.withdraw = None
        self._requests.record(cycle.exchange, _POST, cycle.route.path, DISCONNECTED)

    def _short_way(self, headers: dict[bytes, bytes]) -> HotRoute | None:
        """The route that answers a request directly; None for all that is not plain."""
        if (route := self._routes.get(self.url)) is None:
            return None
        most = self._requests.max_body_bytes
        plain = (
            not self.busy
            and self.parser.get_method() == b"POST"
            and self.version == "1.1"
            and self.parser.should_keep_alive()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and b"transfer-encoding" not in headers
            and int(headers.get(b"content-length", most + 1)) <= most
        )
        return route if plain else None

    def _take(self, route: HotRoute, headers: dict[bytes, bytes]) -> _Cycle | None:
        """Admit a request to the short way; None when it is refused, which is answered here."""
        exchange = self._requests.exchange(headers, gone)
        self.cycle = self._direct = cycle = _Cycle(route, exchange, self.server_state.default_headers)
        try:
            self._requests.admit(exchange, _POST, route.path)
        except Exception as error:
            self._respond(cycle, error)
            return None
        return cycle

    def _answer(self, cycle: _Cycle, body: bytes) -> bool:
        """Answer a request now or later; false when it is for the usual way."""
        assert cycle.route.direct is not None
        respond = partial(self._respond, cycle)
        try:
            cycle.withdraw = cycle.route.direct(cycle.exchange, body, respond)
        except Exception as error:  # what no handler expected is still answered in the one shape
            respond(error)
            return True
        if cycle.withdraw is not None or cycle.response_complete:
            return True
        self._direct = self.cycle = None
        cycle.exchange.give_back(ADMISSION)  # it will be let in anew
        return False

    def _respond(self, cycle: _Cycle, outcome: bytes | Exception) -> None:
        """Write an answer, and turn to the next request."""
        self._direct = cycle.withdraw = None  # else each would keep the other until the collector looks
        code = self.write(cycle.exchange, outcome, _POST, cycle.default_headers, keep_alive=cycle.keep_alive)
        cycle.response_complete = True
        self._requests.record(cycle.exchange, _POST, cycle.route.path, code)
        if not cycle.keep_alive:
            self.close()
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
