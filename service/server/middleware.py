"""The one middleware around every request: id, key, body limit, metrics, log line, spans, and the error of last resort.

It is pure ASGI: each layer costs every request, and Starlette's BaseHTTPMiddleware costs a task.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth.keys import Keys
from service.http.context import ADMISSION, REQUEST_ID, RequestContext, too_large
from service.http.error_body import ErrorShape
from service.http.error_responses import error_response
from service.http.fast_route import FastRoute
from service.state import State
from service.telemetry.metrics import ALLOWED, FORBIDDEN, PROBES, UNAUTHORISED

logger = structlog.get_logger(__name__)

DISCONNECTED = 499
"""Counted, never sent: the client left before there was an answer."""


class RequestMiddleware:
    """Wraps `app` and calls the endpoints of `fast` routes itself; without `keys` everybody is admitted.

    `error_shape` returns the body of an error for a path. `direct` has the routes that `server.fast_path` serves
    without ASGI, by their paths.
    """

    def __init__(
        self,
        app: ASGIApp,
        state: State,
        fast: Mapping[tuple[str, str], FastRoute],
        error_shape: Callable[[str], type[ErrorShape]],
        keys: Keys | None = None,
    ) -> None:
        self._app = app
        self._fast = fast
        self._tracer = state.tracer
        self._metrics = state.metrics
        self._access_log = state.settings.access_log
        self.state = state
        self.settings = state.settings
        self.keys = keys
        self.error_shape = error_shape
        self.traced = state.tracer is not None
        self.direct = {path.encode(): route for (_, path), route in fast.items() if route.direct is not None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext.begin(self.settings, dict(scope["headers"]), receive, traced=self.traced)
        context.error_body = self.error_shape(scope["path"]).of
        scope.setdefault("state", {})["context"] = context
        response = _Response(send, context.request_id.encode())
        route = self._fast.get((scope["method"], scope["path"]))
        if route is not None:
            scope["route"] = route
        try:
            self.admit(context, scope["method"], scope["path"])
            if route is not None:
                await _serve_fast(route, scope, receive, response.send)
            else:
                await self._app(scope, _limited(context), response.send)
        except ClientDisconnect:
            response.code = DISCONNECTED
        except Exception as error:  # what no handler expected is still answered in the one shape
            if response.code is None:
                await error_response(Request(scope), error)(scope, receive, response.send)
            elif error is not context.fault:
                raise
        finally:
            path = getattr(scope.get("route"), "path", None)
            self.record(context, scope["method"], path, response.code or DISCONNECTED)

    def admit(self, context: RequestContext, method: str, path: str) -> None:
        """Check the key of a request before its body is read, and note the caller on its context.

        Raises UnauthorisedError, ForbiddenError, RateLimitedError.
        """
        if self.keys is None or self.keys.is_open(method, path):
            return
        context.admission = UNAUTHORISED
        context.caller = self.keys.identify(context.headers)
        context.admission = FORBIDDEN
        context.caller.check(path)
        context.admission = ALLOWED
        context.spend(ADMISSION if method == "POST" else 0)

    def record(self, context: RequestContext, method: str, route: str | None, code: int) -> None:
        """Count, trace and log a request that has ended; `route` is the path template that matched, if any did."""
        if route in PROBES:
            return
        seconds = time.monotonic() - context.began
        self._metrics.deferred.add(partial(self._metrics.request, route, method, code, seconds))
        key = context.caller.name if context.caller is not None else None
        if context.admission is not None:
            self._metrics.key_request(key or "", context.admission)
        if self._tracer is not None and context.trace is not None:
            self._tracer.record(context.trace, method, route, code)
        if self._access_log:
            logger.info(
                "request",
                method=method,
                route=route,
                code=code,
                ms=round(seconds * 1000, 2),
                request_id=context.request_id,
                key=key,
            )


class _Response:
    """Sends the messages of a response with its request id added, and keeps its status."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self._request_id = request_id
        self.code: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.code = message["status"]
            message["headers"] = [*message.get("headers", ()), (REQUEST_ID, self._request_id)]
        await self._send(message)


async def _serve_fast(route: FastRoute, scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    response: Response = await route.endpoint(request)
    await response(scope, receive, send)


def _limited(context: RequestContext) -> Receive:
    """Return a `receive` that raises TooLargeError once the body is too large, for routes that read it on their own."""
    limit = context.settings.max_body_bytes
    declared = int(context.headers.get(b"content-length", 0))
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await context.receive() if declared <= limit else {}
        received += len(message.get("body", b""))
        if max(received, declared) > limit:
            raise too_large(limit)
        return message

    return limited
