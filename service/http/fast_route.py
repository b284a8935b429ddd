"""Routes whose endpoint the middleware calls itself, past FastAPI's machinery, which costs more than a small student.

FastAPI knows such a route and documents it. A route with a `direct` function is also served without ASGI, by
`server.fast_path`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from service.http.context import RequestContext

Endpoint = Callable[[Request], Awaitable[Response]]

Respond = Callable[[bytes | Exception], None]
"""Writes an answer: its JSON, or an error."""

Direct = Callable[[RequestContext, bytes, Respond], Callable[[], None] | None]
"""Starts to answer a body that is declared to be JSON: `respond` is called once, later.

Returns the function that withdraws the request, or None for a body that the endpoint must read, and refuse, instead.
Raises ServiceError to refuse the request.
"""


class FastRoute(APIRoute):
    """A route without path parameters, whose endpoint takes a `Request` and returns a `Response`."""

    direct: Direct | None = None


def fast_routes(routes: Iterable[BaseRoute]) -> dict[tuple[str, str], FastRoute]:
    """Return the fast routes among `routes`, by method and path."""
    return {
        (method, route.path): route
        for route in routes
        if isinstance(route, FastRoute)
        for method in route.methods or ()
    }
