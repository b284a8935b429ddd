"""What happens around every request: its id, its key, the limit on its body, its metrics, its log line, its spans.

And the error of last resort.

One pure ASGI middleware: each layer costs every request, and Starlette's BaseHTTPMiddleware costs a task.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth.keys import Keys
from service.http.context import ADMISSION, Exchange, too_large
from service.http.error_body import ErrorShape
from service.http.error_responses import error_response
from service.http.hot import HotRoute
from service.state import State
from service.telemetry.metrics import ALLOWED, FORBIDDEN, PROBES, UNAUTHORISED
from service.telemetry.trace import Trace

logger = structlog.get_logger(__name__)

REQUEST_ID = b"x-request-id"
_PROCESS = os.urandom(8).hex()
_numbers = count()
_SAFE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
DISCONNECTED = 499
"""Counted, never sent: the client left before there was an answer."""


class RequestMiddleware:
    """Wraps the app, and calls the endpoints of hot routes itself; see the module. Without `keys` all may ask.

    `error_shape` gives the body of an error for a path: whoever asks there is told so of what happens on the way too.
    `direct` has the routes that need no ASGI, by their paths; who serves one calls `exchange`, `admit` and `record`.
    """

    def __init__(
        self,
        app: ASGIApp,
        state: State,
        hot: Mapping[tuple[str, str], HotRoute],
        error_shape: Callable[[str], type[ErrorShape]],
        keys: Keys | None = None,
    ) -> None:
        self._app = app
        self.state = state
        self._hot = hot
        self._keys = keys
        self.error_shape = error_shape
        self._tracer = state.tracer
        self._metrics = state.metrics
        self._settings = state.settings
        self._access_log = state.settings.access_log
        self.plain = keys is None and state.tracer is None and not state.settings.access_log
        """Whether a request that is refused leaves nothing but counts."""

        self.max_body_bytes = state.settings.max_body_bytes
        self.direct = {path.encode(): route for (_, path), route in hot.items() if route.direct is not None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = self.exchange(dict(scope["headers"]), receive)
        exchange.error_body = self.error_shape(scope["path"]).of
        scope.setdefault("state", {})["exchange"] = exchange
        answer = _Answer(send, exchange.request_id.encode())
        route = self._hot.get((scope["method"], scope["path"]))
        if route is not None:
            scope["route"] = route
        try:
            self.admit(exchange, scope["method"], scope["path"])
            if route is not None:
                await _serve_hot(route, scope, receive, answer.send)
            else:
                await self._app(scope, _limited(exchange), answer.send)
        except ClientDisconnect:
            answer.code = DISCONNECTED
        except Exception as error:  # what no handler expected is still answered in the one shape
            if answer.code is None:
                await error_response(Request(scope), error)(scope, receive, answer.send)
            elif error is not exchange.fault:
                raise
        finally:
            path = getattr(scope.get("route"), "path", None)
            self.record(exchange, scope["method"], path, answer.code or DISCONNECTED)

    def exchange(self, headers: dict[bytes, bytes], receive: Receive) -> Exchange:
        """A request that begins now, with its id and, where there is tracing, its trace."""
        exchange = Exchange(
            self._settings, request_id_of(headers.get(REQUEST_ID, b"")), headers, receive, time.monotonic()
        )
        if self._tracer is not None:
            exchange.trace = Trace(exchange.request_id, headers, exchange.began)
        return exchange

    def admit(self, exchange: Exchange, method: str, path: str) -> None:
        """Let a request in, before its body is read, and note on it who asks.

        Raises UnauthorisedError, ForbiddenError, RateLimitedError.
        """
        if self._keys is None or self._keys.is_open(method, path):
            return
        exchange.admission = UNAUTHORISED
        exchange.caller = self._keys.identify(exchange.headers)
        exchange.admission = FORBIDDEN
        exchange.caller.check(path)
        exchange.admission = ALLOWED
        exchange.spend(ADMISSION if method == "POST" else 0)

    def record(self, exchange: Exchange, method: str, route: str | None, code: int) -> None:
        """Count, trace and log a request that has ended. `route` is the template that matched, None when none did."""
        if route in PROBES:
            return
        seconds = time.monotonic() - exchange.began
        self._metrics.later(partial(self._metrics.request, route, method, code, seconds))
        if self.plain:
            return
        key = exchange.caller.name if exchange.caller is not None else None
        if exchange.admission is not None:
            self._metrics.key_request(key or "", exchange.admission)
        if self._tracer is not None and exchange.trace is not None:
            self._tracer.record(exchange.trace, method, route, code)
        if self._access_log:
            logger.info(
                "request",
                method=method,
                route=route,
                code=code,
                ms=round(seconds * 1000, 2),
                request_id=exchange.request_id,
                key=key,
            )


class _Answer:
    """Sends an answer with its request id and remembers its status."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self._request_id = request_id
        self.code: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.code = message["status"]
            message["headers"] = [*message.get("headers", ()), (REQUEST_ID, self._request_id)]
        await self._send(message)


async def _serve_hot(route: HotRoute, scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    response: Response = await route.endpoint(request)
    await response(scope, receive, send)


def _limited(exchange: Exchange) -> Receive:
    """`receive` for routes that read their body some other way: it raises TooLargeError once there is too much."""
    limit = exchange.settings.max_body_bytes
    declared = int(exchange.headers.get(b"content-length", 0))
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await exchange.receive() if declared <= limit else {}
        received += len(message.get("body", b""))
        if max(received, declared) > limit:
            raise too_large(limit)
        return message

    return limited


def request_id_of(given: bytes) -> str:
    """The client's id when it is short and safe to log, else a new one."""
    return given.decode() if given and _SAFE_ID.fullmatch(given) else f"{_PROCESS}{next(_numbers):016x}"
