"""The fast path: a plain request to a fast route is answered without an ASGI scope, task or message.

`Reader` parses every request and offers each complete head here. A request that is not plain, or whose body the route
does not understand, goes through uvicorn and the app instead. Under overload a request is refused before its JSON is
read. Clients send the same head again and again, so a head that was parsed is known by its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from service.http.body import JSON
from service.http.context import ADMISSION, RequestContext
from service.http.fast_route import FastRoute
from service.inference import dataplane
from service.inference.types import Withdraw
from service.server.connection import CLOSE, Connection, Headers
from service.server.middleware import DISCONNECTED, RequestMiddleware

_POST = "POST"
_HEAD_ENDS = b"\r\n\r\n"
_MOST_HEADS = 4096
_MOST_HEAD_BYTES = 1024
"""At most so many heads are known, of at most so many bytes."""

_UNIQUE = frozenset({b"x-request-id", b"traceparent"})
"""Headers that differ from request to request."""


class _Head(NamedTuple):
    """What a head that was parsed says."""

    route: FastRoute
    headers: dict[bytes, bytes]
    length: int


class FastPath:
    """The fast routes of an app, shared by all connections."""

    def __init__(self, requests: RequestMiddleware) -> None:
        self.requests = requests
        self.models = requests.state.models
        self._settings = requests.settings
        self._traced = requests.traced
        self._routes = requests.direct
        self._known: dict[bytes, _Head] = {}

    def take(self, connection: Connection, headers: dict[bytes, bytes]) -> FastRequest | None:
        """Return the request whose head `connection` has just read if it is plain, else None."""
        route = self._routes.get(connection.url)
        most = self._settings.max_body_bytes
        if (
            route is None
            or connection.parser.get_method() != b"POST"
            or connection.version != "1.1"
            or not connection.parser.should_keep_alive()
            or connection.expect_100_continue
            or connection.flow.write_paused
            or headers.get(b"content-type") != JSON
            or b"transfer-encoding" in headers
            or b"content-encoding" in headers
            or int(headers.get(b"content-length", most + 1)) > most
        ):
            return None
        return self._begin(connection, route, headers)

    def recall(self, connection: Connection, data: bytes) -> tuple[FastRequest, bytes] | None:
        """Return the request that `data` consists of, and its body, if its head is known; else None."""
        end = data.find(_HEAD_ENDS) + len(_HEAD_ENDS)
        head = self._known.get(data[:end])
        if head is None or len(data) - end != head.length:
            return None
        return self._begin(connection, head.route, head.headers), data[end:]

    def learn(self, data: bytes, request: FastRequest) -> None:
        """Keep the head of a parsed request, if `data` consists of that request and the head may come again."""
        headers = request.context.headers
        end = data.find(_HEAD_ENDS) + len(_HEAD_ENDS)
        length = int(headers[b"content-length"])
        if len(data) - end != length or end > _MOST_HEAD_BYTES or not _UNIQUE.isdisjoint(headers):
            return
        if len(self._known) >= _MOST_HEADS:
            self._known.clear()
        self._known[data[:end]] = _Head(request.route, headers, length)

    def _begin(self, connection: Connection, route: FastRoute, headers: dict[bytes, bytes]) -> FastRequest:
        context = RequestContext.begin(self._settings, headers, traced=self._traced)
        defaults = connection.server_state.default_headers
        return FastRequest(self, connection, route, context, defaults, keep_alive=CLOSE not in defaults)


class _NobodyWaits:
    """Stands for the event that uvicorn sets when a client has left."""

    def set(self) -> None:
        """Do nothing."""


_NOBODY_WAITS = _NobodyWaits()


@dataclass(slots=True, eq=False)
class FastRequest:
    """One request on the fast path, with the attributes that uvicorn expects of the request of a connection."""

    path: FastPath
    connection: Connection | None
    """The connection; None once the request has ended, so that neither keeps the other."""

    route: FastRoute
    context: RequestContext
    default_headers: Headers
    keep_alive: bool
    parts: list[bytes] = field(default_factory=list)
    withdraw: Withdraw | None = None
    response_complete: bool = False
    disconnected: bool = False
    message_event: _NobodyWaits = _NOBODY_WAITS

    def admit(self) -> None:
        """Check the key, and answer a request without a valid one at once."""
        try:
            self.path.requests.admit(self.context, _POST, self.route.path)
        except Exception as error:
            self.respond(error)

    def complete(self) -> bytes | None:
        """Start to answer, now that the body is complete. Return the body if the app must read it, else None."""
        if self.response_complete:
            return None
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts.clear()  # an idle connection keeps its last request
        assert self.route.direct is not None
        try:
            model = self.path.models.only
            if model is not None and model.scheduler.overload.crowded:
                dataplane.refuse_early(model, self.context)
            self.withdraw = self.route.direct(self.context, body, self.respond)
        except Exception as error:
            self.respond(error)
            return None
        if self.withdraw is not None or self.response_complete:
            return None
        self.connection = None
        self.context.give_back(ADMISSION)  # the app will admit it again
        return body

    def respond(self, outcome: bytes | Exception) -> None:
        """Write an answer, and let the connection turn to its next request."""
        connection, self.connection, self.withdraw = self.connection, None, None
        assert connection is not None
        code = connection.write(self.context, outcome, _POST, self.default_headers, keep_alive=self.keep_alive)
        self.response_complete = True
        self.path.requests.record(self.context, _POST, self.route.path, code)
        connection.answered(keep_alive=self.keep_alive)

    def fail(self, error: Exception) -> None:
        """Answer with an error while the body is still arriving, and close the connection."""
        self.keep_alive = False
        self.parts.clear()
        self.respond(error)

    def disconnect(self) -> None:
        """Withdraw the request, whose client has left before the answer was written."""
        self.connection = None
        if self.withdraw is not None:
            self.withdraw()
            self.withdraw = None
        self.path.requests.record(self.context, _POST, self.route.path, DISCONNECTED)
