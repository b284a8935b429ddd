"""A handler whose replies a test writes beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

Reply = httpx.Response | Exception | Callable[[Any], httpx.Response]


class Script:
    """Answers requests with `replies` in turn, the last for good, and keeps the `requests`.

    A reply is a response, an exception to raise, or a function of the request's JSON that gives a response. For
    `httpx.MockTransport` and `tests.support.http_server.serving`.
    """

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []
        self.url = ""
        """Where the script is served."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, httpx.Response):
            return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)
        return reply(self.asked[-1])

    @property
    def asked(self) -> list[Any]:
        """The JSON of each request."""
        return [json.loads(request.content) for request in self.requests]

    @property
    def headers(self) -> list[httpx.Headers]:
        """The headers of each request."""
        return [request.headers for request in self.requests]

    @property
    def paths(self) -> list[str]:
        """The path of each request."""
        return [request.url.path for request in self.requests]
