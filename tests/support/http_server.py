"""An HTTP server on a real socket whose answers a test writes.

A handler takes an `httpx.Request` and gives an `httpx.Response`, as `httpx.MockTransport` has it; it may be async. The
same handler thus plays a server in memory and, with `serving`, one on a socket.
"""

from __future__ import annotations

import inspect
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from uvicorn.server import ServerState

from tests.support.sockets import address_of
from tests.support.waiting import PATIENCE, until

Handler = Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]


@dataclass
class HttpServer:
    """A handler that is being served at `url`, the root, without a slash at its end."""

    url: str
    state: ServerState

    async def idle(self, *, patience: float = PATIENCE) -> None:
        """Return when no connection is open and no request is being answered. Raises TimeoutError after `patience`."""
        await until(lambda: not self.state.connections and not self.state.tasks, patience=patience)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[HttpServer]:
    """Serve a handler on a free port, in this event loop. Requests that are still open at the end are cancelled."""
    config = uvicorn.Config(_application(handler), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        await server.startup([listener])
        try:
            yield HttpServer(f"http://{address_of(listener)}", server.server_state)
        finally:
            await server.shutdown()


def _application(handler: Handler) -> Any:
    """The ASGI application that answers as a handler; `extensions["client"]` of a request is the client's address."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return  # the client left before the request was whole
            body, more = body + event["body"], event["more_body"]
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        request = httpx.Request(
            scope["method"],
            f"http://server{scope['path']}{query}",
            headers=scope["headers"],
            content=body,
            extensions={"client": scope["client"]},
        )
        response = handler(request)
        if inspect.isawaitable(response):
            response = await response
        headers = [(name.lower(), value) for name, value in response.headers.raw]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": response.content})

    return application
