"""Runs an app on uvicorn, reloads the bundles on SIGHUP, and stops without losing a request.

On SIGTERM or SIGINT `/readyz` fails at once while requests are still served, so that load balancers turn elsewhere
(`drain_seconds`). Then the listener closes, every answer says `Connection: close`, idle connections get a grace
period (`idle_grace_seconds`), and requests in flight are finished (`shutdown_seconds`). A second signal skips the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, NamedTuple

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.server import HANDLED_SIGNALS

from service.errors import ReloadingError, StartupError
from service.process.priority import lower_priority
from service.server.connection import CLOSE
from service.server.fast_path import FastPath
from service.server.reader import Reader
from service.settings import Settings, variable
from service.state import State
from service.telemetry.logging import log_loop_errors

logger = structlog.get_logger(__name__)

_TICK = 0.02
_CLOSED = -1
_ACCEPT_AGAIN_SECONDS = 1.0
_LAST_SECONDS = 1
"""How long a scrape of the metrics may still take at the very end."""


def bind(host: str, port: int, setting: str = "port") -> socket.socket:
    """Bind a TCP socket, without listening yet. Raises StartupError, naming the setting, if the address is not free."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {host}:{port} ({error}); change {variable('host')} or {variable(setting)}"
        ) from error
    return listener


class Monitoring(NamedTuple):
    """The app of probes and metrics, and its own bound socket."""

    app: FastAPI
    listener: socket.socket


class Server(uvicorn.Server):
    """uvicorn's server, with the stop that the module describes.

    It runs the app's lifespan itself, so that an error there reaches the caller. `monitoring` is served until every
    request has ended.
    """

    def __init__(self, app: FastAPI, settings: Settings, monitoring: Monitoring | None = None) -> None:
        super().__init__(_config(app, settings))
        self._app = app
        self._settings = settings
        self._state: State = app.state.reflux
        self._monitoring = monitoring
        # Where something stands before the one middleware, such as CORS, every request needs it.
        self._fast_path = FastPath(app.state.requests) if app.state.edge is app.state.requests else None
        self._connecting: set[asyncio.Task[Any]] = set()
        self._reloading: asyncio.Task[None] | None = None
        self._reload_due = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Load the bundles, serve on bound sockets until told to stop, and stop in order."""
        # Work in threads, such as a teacher that runs in this process, must not delay requests.
        asyncio.get_running_loop().set_exception_handler(log_loop_errors)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(initializer=lower_priority))
        with self.capture_signals():
            async with self._app.router.lifespan_context(self._app), self._monitored():
                await self._serve(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals on the event loop, from before the bundle is loaded.

        As process 1 of a container, the server would otherwise ignore SIGTERM.
        """
        loop = asyncio.get_running_loop()
        for number in HANDLED_SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            yield
        finally:
            for number in (*HANDLED_SIGNALS, signal.SIGHUP):
                loop.remove_signal_handler(number)

    @contextlib.asynccontextmanager
    async def _monitored(self) -> AsyncIterator[None]:
        """Serve the monitoring port meanwhile, if there is one."""
        if self._monitoring is None:
            yield
            return
        config = _config(self._monitoring.app, self._settings)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        listener = self._monitoring.listener
        host, port = listener.getsockname()[:2]
        await server.startup([listener])
        logger.info("monitoring", host=host, metrics_port=port)
        try:
            yield
        finally:
            await server.shutdown([listener])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal, and cut open requests at the second."""
        if self._state.draining:
            self.should_exit = self.force_exit = True
            return
        self._state.draining = True
        seconds = self._settings.drain_seconds if self.started else 0.0
        asyncio.get_running_loop().call_later(seconds, setattr, self, "should_exit", True)
        logger.info("draining", seconds=seconds)

    def _reload(self) -> None:
        """Begin to reload the bundles; the current ones serve until the new ones can take over.

        However many signals come during a reload, exactly one more reload follows it: the files may have changed since
        they were read, and a signal cannot be answered with "try again".
        """
        self._reload_due = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload_bundles(), name="reload")

    async def _reload_bundles(self) -> None:
        while self._reload_due:
            try:
                await self._state.models.unchanging()
                self._reload_due = False
                logger.info("reloaded", **await self._state.models.reload())
            except ReloadingError:  # a request to `/admin/reload` was faster
                self._reload_due = True
            except StartupError as error:
                logger.error("not reloaded; the bundles from before stay in service", error=str(error))
            except Exception:  # nobody waits for this task
                logger.exception("not reloaded; the bundles from before stay in service")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        # What is loaded stays, so the collector need not search it, which would delay requests. A collection now would
        # take a tenth of the start and find next to nothing.
        gc.freeze()
        gc.enable()
        await super().startup([])
        for listener in sockets or []:
            listener.setblocking(False)
            listener.listen(self.config.backlog)
            self._accept_from(listener)
            host, port = listener.getsockname()[:2]
            logger.info("listening", host=host, port=port)
        if self._state.access.notice is not None:
            logger.warning("open to all", notice=self._state.access.notice)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, answer the requests that were sent, and close the connections."""
        self._announce_close()
        await self._stop_listening(sockets or [])
        try:
            async with asyncio.timeout(self._settings.shutdown_seconds):
                await self._connections_end()
        except TimeoutError:
            cut = sum(
                isinstance(connection, Reader) and connection.busy for connection in self.server_state.connections
            )
            logger.error("requests cut", requests=cut, after=self._settings.shutdown_seconds)
        for connection in list(self.server_state.connections):
            connection.transport.close()
        logger.info("stopped")

    def _accept_from(self, listener: socket.socket) -> None:
        """Accept all waiting connections at once.

        uvloop accepts one per turn of the event loop, and a turn may include a run of the graph.
        """
        if listener.fileno() != _CLOSED:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            for connection in _accepted(listener):
                task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)
        except OSError as error:  # no descriptor is left; the loop would report the waiting connection without pause
            logger.error("cannot accept", error=str(error), again_after=_ACCEPT_AGAIN_SECONDS)
            loop.remove_reader(listener)
            loop.call_later(_ACCEPT_AGAIN_SECONDS, self._accept_from, listener)

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for listener in sockets:
            self._accept(listener)  # to close it resets connections that only the kernel has accepted
            loop.remove_reader(listener)
            listener.close()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    def _protocol(self) -> asyncio.Protocol:
        return Reader(self.config, self.server_state, self.lifespan.state, fast_path=self._fast_path)

    def _announce_close(self) -> None:
        """Make every answer from now on say `Connection: close`, also those to requests in flight."""
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        for connection in self.server_state.connections:
            if isinstance(connection, Reader) and connection.cycle is not None:
                connection.cycle.keep_alive = False

    async def _connections_end(self) -> None:
        idle_until = time.monotonic() + self._settings.idle_grace_seconds
        while (self.server_state.connections or self.server_state.tasks) and not self.force_exit:
            if time.monotonic() >= idle_until:
                for connection in list(self.server_state.connections):
                    connection.shutdown()  # closes an idle one, leaves a busy one to end with its answer
            await asyncio.sleep(_TICK)


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Reader,
        proxy_headers=False,  # nothing here depends on the client's address
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Yield the waiting connections. Raises OSError when one cannot be accepted."""
    while True:
        try:
            connection, _ = listener.accept()
        except ConnectionAbortedError:  # the client has left meanwhile
            continue
        except BlockingIOError:
            return
        connection.setblocking(False)
        yield connection
