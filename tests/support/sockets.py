"""Servers below HTTP, and addresses without one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


@asynccontextmanager
async def tcp_server(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Serve connections with `handle` on a free port; yields its address, `host:port`."""
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield address_of(server.sockets[0])
    finally:
        server.close()


def address_of(bound: socket.socket) -> str:
    """Return `host:port` of a bound socket."""
    host, port = bound.getsockname()
    return f"{host}:{port}"


def dead_address() -> str:
    """Return an address, `host:port`, at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return address_of(free)
