"""The service in the process of the test: without a socket, or on one."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI

from export.bundle.classifier import Classifier, Encoded, Prediction
from service.app import create_app
from service.server.lifecycle import Server, bind
from service.settings import Settings
from tests.support.waiting import PATIENCE, until

ADMIN = "the key of an administrator"


@asynccontextmanager
async def run_app(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Start an app; yields a client that asks it without a socket, with the key ADMIN where `settings.admin`."""
    app = create_app(settings)
    headers = {"x-api-key": ADMIN} if settings.admin else {}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://reflux", timeout=PATIENCE, headers=headers
        ) as client,
    ):
        yield client


@dataclass
class Serving:
    """A server in this process, on a socket."""

    server: Server
    app: FastAPI
    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Do what SIGTERM does."""
        self.server.handle_exit(signal.SIGTERM, None)


@asynccontextmanager
async def run_server(settings: Settings) -> AsyncIterator[Serving]:
    """Start a server on a free port, and stop it at the end."""
    app = create_app(settings)
    server, listener = Server(app, settings), bind("127.0.0.1", 0)
    serving = Serving(server, app, listener.getsockname()[1])
    running = asyncio.create_task(server.serve([listener]))
    try:
        await until(lambda: server.started)
        yield serving
    finally:
        serving.stop()
        await running
        gc.unfreeze()


class Gate:
    """Makes the runs of graphs in this process wait from `close()` until `opened` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        self.opened.set()
        run = Classifier.run

        def wait(classifier: Classifier, rows: Sequence[Encoded]) -> list[Prediction]:
            self.reached.set()
            assert self.opened.wait(PATIENCE)
            return run(classifier, rows)

        monkeypatch.setattr(Classifier, "run", wait)

    def close(self) -> None:
        """Let the next run wait."""
        self.opened.clear()
        self.reached.clear()

    async def held(self) -> None:
        """Return when a run waits at the gate."""
        assert await asyncio.to_thread(self.reached.wait, PATIENCE)
