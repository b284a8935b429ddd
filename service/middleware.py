"""What happens around every request: its id, the limit on its body, its metrics, its log line, its last-resort error.

One pure ASGI middleware: each layer costs every request, and Starlette's BaseHTTPMiddleware costs a task.
"""

from __future__ import annotations

import re
import time
from uuid import uuid4

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import TooLargeError, error_response
from service.metrics import PROBES, Metrics

logger = structlog.get_logger(__name__)

REQUEST_ID = b"x-request-id"
_SAFE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_DISCONNECTED = 499
"""Counted, never sent: the client left before there was an answer."""


class RequestMiddleware:
    """Wraps the app; see the module."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, max_body_bytes: int, access_log: bool) -> None:
        self.app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id.encode())
        try:
            await self.app(scope, _limited(scope, receive, self._max_body_bytes), answer.send)
        except ClientDisconnect:
            answer.code = _DISCONNECTED
        except Exception as error:  # what no handler expected is still answered in the one shape
            if answer.code is not None:
                raise
            await error_response(Request(scope), error)(scope, receive, answer.send)
        finally:
            self._record(scope, answer.code or _DISCONNECTED, time.perf_counter() - started, request_id)

    def _record(self, scope: Scope, code: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", None)
        if route in PROBES:
            return
        self._metrics.request(route, scope["method"], code, seconds)
        if self._access_log:
            logger.info(
                "request",
                method=scope["method"],
                route=route,
                code=code,
                ms=round(seconds * 1000, 2),
                request_id=request_id,
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


def _limited(scope: Scope, receive: Receive, limit: int) -> Receive:
    """`receive`, which raises TooLargeError once the body exceeds `limit` bytes, or says that it will."""
    received = 0
    declared = int(next((value for name, value in scope["headers"] if name == b"content-length"), 0))

    async def limited() -> Message:
        nonlocal received
        message = await receive() if declared <= limit else {}
        received += len(message.get("body", b""))
        if max(received, declared) > limit:
            raise TooLargeError(f"the body has more than {limit} bytes; send fewer or shorter texts per request")
        return message

    return limited


def _request_id(scope: Scope) -> str:
    """Return the client's id when it is short and safe to log, else a new one."""
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
    return given.decode() if _SAFE_ID.fullmatch(given) else uuid4().hex
