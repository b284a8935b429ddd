"""Routes that are served past FastAPI's machinery, which costs more than the run of a small student.

FastAPI knows such a route and documents it; the middleware calls its endpoint, which takes the request and gives the
response, and nothing else. One that is `direct` does not even need ASGI; see `server.fast_path`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from service.http.context import Exchange

Endpoint = Callable[[Request], Awaitable[Response]]

Respond = Callable[[bytes | Exception], None]
"""Writes an answer: its JSON, or an error."""

Direct = Callable[[Exchange, bytes, Respond], Callable[[], None] | None]
"""Answers a body, later and once, and gives what withdraws the request before that; raises for what it refuses.

Gives None for what it does not understand: that is for the endpoint, which says why.
"""


class HotRoute(APIRoute):
    """A route without parameters in its path, whose endpoint takes a `Request` alone."""

    direct: Direct | None = None


def hot_routes(routes: Iterable[BaseRoute]) -> dict[tuple[str, str], HotRoute]:
    """The hot ones among routes, by method and path."""
    return {
        (method, route.path): route for route in routes if isinstance(route, HotRoute) for method in route.methods or ()
    }
