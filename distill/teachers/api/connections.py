"""HTTP connections for many calls at once to one server: a stack of httpx transports, each of one connection.

httpcore's pool polls the socket of every connection whenever a call begins or ends; with 64 calls at once that costs
more processor time here than at the server (httpx issue 3215).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx

from distill.teachers.api.proxies import proxy_for

_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1)


class Connections(httpx.AsyncBaseTransport):
    """Opens a connection for every concurrent call; the caller limits these.

    Uses the proxy that the environment names for the server, if any. Raises TeacherError for an unusable proxy; a call
    through a proxy that fails raises ApiError.
    """

    def __init__(self, base_url: str) -> None:
        self._proxy = proxy_for(base_url)
        self._context = httpx.create_ssl_context()
        self._free: list[httpx.AsyncHTTPTransport] = []
        self._made: list[httpx.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on the free connection that was used last. It is free again when the response is closed."""
        connection = self._free.pop() if self._free else self._new()
        try:
            response = await connection.handle_async_request(request)
        except BaseException as error:
            self._free.append(connection)
            if self._proxy is not None:
                self._proxy.reraise(error, request.url.host)
            raise
        if self._proxy is not None and response.status_code == 407:
            await response.aclose()
            self._free.append(connection)
            raise self._proxy.failed(request.url.host, "it wants other credentials (407)")
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        pooled = _PooledStream(stream, lambda: self._free.append(connection))
        return httpx.Response(
            response.status_code, headers=response.headers, stream=pooled, extensions=response.extensions
        )

    async def aclose(self) -> None:
        """Close every connection."""
        for connection in self._made:
            await connection.aclose()

    def _new(self) -> httpx.AsyncHTTPTransport:
        proxy = None if self._proxy is None else self._proxy.url
        connection = httpx.AsyncHTTPTransport(verify=self._context, limits=_ONE, proxy=proxy)
        self._made.append(connection)
        return connection


class _PooledStream(httpx.AsyncByteStream):
    """The body of a response; calls `release` once, when it is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, release: Callable[[], None]) -> None:
        self._stream = stream
        self._release: Callable[[], None] | None = release

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        release, self._release = self._release, None
        try:
            await self._stream.aclose()
        finally:
            if release is not None:
                release()
