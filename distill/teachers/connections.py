"""HTTP connections for many calls at once to one server: one each, taken from a stack.

httpcore's own pool looks at every connection, and polls its socket, whenever a call begins or ends, so that 64 calls at
once cost a processor more than they cost the server (httpx issue 3215). Here a pool never has more than one.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1)


class Connections(httpx.AsyncBaseTransport):
    """As many connections as there are calls at once; who calls bounds that. Responses come with their whole body."""

    def __init__(self, base_url: str) -> None:
        self._proxy = _proxy(base_url)
        self._context = httpx.create_ssl_context()
        self._free: list[httpx.AsyncHTTPTransport] = []
        self._made: list[httpx.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on the connection that was used last, of those that are free."""
        connection = self._free.pop() if self._free else self._new()
        try:
            response = await connection.handle_async_request(request)
            try:
                await response.aread()
            finally:
                await response.aclose()
        finally:
            self._free.append(connection)
        return response

    async def aclose(self) -> None:
        """Close them all."""
        for connection in self._made:
            await connection.aclose()

    def _new(self) -> httpx.AsyncHTTPTransport:
        connection = httpx.AsyncHTTPTransport(verify=self._context, limits=_ONE, proxy=self._proxy)
        self._made.append(connection)
        return connection


def _proxy(base_url: str) -> str | None:
    """The proxy that the environment names for a server; httpx heeds it only for transports of its own making."""
    url = urlsplit(base_url)
    if proxy_bypass(url.hostname or ""):
        return None
    proxies = getproxies()
    return proxies.get(url.scheme) or proxies.get("all")
