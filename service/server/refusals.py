"""Refusals of requests that are not even parsed: under overload there are several for every answer.

What a refusal costs is taken from the answers, so it is made from the bytes of a request as they came, where they are a
plain POST to a hot route, and counted later, together with others. Any doubt about the bytes, and all that is not a
refusal for want of time or place, is left to HTTP's parser and the route.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.errors import OverloadedError
from service.http.error_body import ErrorBody
from service.inference.runner import Refusal
from service.server.headers import CLOSE, Headers, written
from service.server.heads import Heads
from service.server.middleware import REQUEST_ID, RequestMiddleware, request_id_of
from service.telemetry.metrics import ModelMetrics

_COUNT_SECONDS = 0.1
_POST = "POST"
_REQUEST = re.compile(
    rb"""POST\ (?P<path>/[a-z0-9/]*)\ HTTP/1\.1\r\n
    (?i:content-length:\ (?P<length>[0-9]{1,9})\r\n (?!(?:[^\r\n]+\r\n)*content-length)
    |x-request-timeout-ms:\ (?P<timeout>[1-9][0-9]{0,8})\r\n
    |x-request-id:\ (?P<id>[\t\x20-\x7e]*)\r\n
    |(?P<json>content-type:\ application/json\r\n)
    |connection:\ keep-alive\r\n
    |(?:
        [abdf-svwyz]
        |(?!content-|connection|expect|te:|transfer-|upgrade|x-reflux-|x-request-)[cetux]
    )[a-z0-9-]*:[\t\x20-\x7e]*\r\n
    )*\r\n""",
    re.VERBOSE,
)
"""The head of a request that is plain in all that concerns a refusal."""

_BODY = ErrorBody.of(OverloadedError("%b", retry_after=1), "%%b").model_dump_json().encode()
_FRAME = len(_BODY) - len(b"%b%%b")
_ANSWER = (
    STATUS_LINE[OverloadedError.status_code]
    + b"content-length: %%d\r\ncontent-type: application/json\r\n"
    + REQUEST_ID
    + b": %%b\r\nretry-after: %d\r\n%b\r\n"
    + _BODY
)


class _Asked(NamedTuple):
    """What matters of a plain request's head: its route, the seconds that there are for an answer, its id."""

    path: str
    seconds: float | None
    request_id: bytes


class Refusals:
    """Refuses for an app whose middleware is `edge`, in the shape, with the id, and counted as the route does."""

    def __init__(self, edge: RequestMiddleware) -> None:
        self._edge = edge
        self._models = edge.state.models
        self._timeout = edge.state.settings.timeout_seconds
        self._known: Heads[_Asked] = Heads(edge.max_body_bytes)
        self._refused: dict[tuple[str, ModelMetrics], int] = defaultdict(int)
        self._counting = False
        self._headers: Headers = []
        self._refusal: Refusal | None = None
        self._answer = b""
        self._length = 0

    def answer(self, data: bytes, headers: Headers) -> bytes | None:
        """The answer 429, with more `headers`, to a request that is whole and cannot be answered in time, else None.

        It is always None with a candidate, for two bundles have queues of their own, and while connections are closed.
        """
        model = self._models.only
        if model is None or not model.runner.crowded or CLOSE in headers:
            return None
        known = self._known.of(data)
        asked = self._read(data) if known is None else known[0]
        if asked is None:
            return None
        refusal = model.runner.refusal(asked.seconds)
        if refusal is None:
            return None
        self._count(asked.path, model.metrics)
        named = request_id_of(asked.request_id).encode()
        return self._written(refusal, headers) % (self._length + len(named), named, named)

    def _read(self, data: bytes) -> _Asked | None:
        """What is asked for, where that is one whole plain request to a hot route."""
        found = _REQUEST.match(data)
        if found is None:
            return None
        path, length, timeout, request_id, json = found.group("path", "length", "timeout", "id", "json")
        route = self._edge.direct.get(path)
        if route is None or json is None or length is None or found.end() + int(length) != len(data):
            return None
        if int(length) > self._edge.max_body_bytes:
            return None
        seconds = self._timeout
        if timeout is not None:
            wanted = int(timeout) / 1000
            seconds = wanted if seconds is None else min(wanted, seconds)
        asked = _Asked(route.path, seconds, request_id or b"")
        self._known.learn(data, asked)
        return asked

    def _written(self, refusal: Refusal, headers: Headers) -> bytes:
        """An answer but for its length and twice its id; several in a row have the same."""
        if refusal is not self._refusal or headers is not self._headers:
            more = written(headers).replace(b"%", b"%%")
            message = refusal.message.encode()
            self._refusal, self._headers, self._length = refusal, headers, _FRAME + len(message)
            self._answer = _ANSWER % (refusal.retry_after, more, message.replace(b"%", b"%%"))
        return self._answer

    def _count(self, path: str, metrics: ModelMetrics) -> None:
        self._refused[path, metrics] += 1
        if not self._counting:
            self._counting = True
            asyncio.get_running_loop().call_later(_COUNT_SECONDS, self._flush)

    def _flush(self) -> None:
        """Count what has been refused; none took a millisecond."""
        self._counting = False
        for (path, metrics), count in self._refused.items():
            metrics.answer("overloaded", count)
            self._edge.state.metrics.request(path, _POST, OverloadedError.status_code, 0.0, count)
        self._refused.clear()
