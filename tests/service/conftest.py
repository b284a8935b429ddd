"""Running the service for tests: in this process without a socket, or on a real one, or as a process of its own."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import structlog
from fastapi import FastAPI

from export.bundle.classifier import Classifier, Encoded, Prediction
from export.bundle.format import Bundle
from service.app import create_app
from service.auth.keyfile import key_line
from service.server.lifecycle import Server, bind
from service.settings import Settings

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0

PLAN = {"workers": 1, "batch_tokens": 512}
"""How a service runs its graph unless a test says otherwise; to measure takes a second, and may end in any plan."""

MakeSettings = Callable[..., Settings]
ADMIN = "the key of an administrator"

Running = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture(autouse=True, scope="session")
def plain_logging() -> Iterator[None]:
    """Spare tests structlog's slow tracebacks, and let no logger keep what another test configured."""
    configure = structlog.configure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            structlog, "configure", lambda **given: configure(**{**given, "cache_logger_on_first_use": False})
        )
        structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
        yield


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """Leave structlog as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def make_settings(tiny_bundle: Bundle, tmp_path: Path) -> MakeSettings:
    """`make_settings(**settings)`: a service of `tiny_bundle` by PLAN, its shadow in a directory of its own.

    With `admin` and no file of keys there is one with the key ADMIN.
    """
    defaults = {"bundle": tiny_bundle.path, "shadow": {"path": tmp_path / "shadow.sqlite"}, **PLAN}

    def make(**settings: Any) -> Settings:
        if settings.get("admin") and "api_keys" not in settings:
            settings["api_keys"] = tmp_path / "admin.keys"
            settings["api_keys"].write_text(key_line("admin", ADMIN, "admin"))
        return Settings(**{**defaults, **settings})

    return make


@asynccontextmanager
async def run_app(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        headers = {"x-api-key": ADMIN} if settings.admin else {}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://reflux", timeout=PATIENCE, headers=headers
        ) as client:
            yield client


@pytest.fixture
def running(make_settings: MakeSettings) -> Running:
    """`async with running(**settings) as client`: an app that has started, asked without a socket; `admin`: by one."""
    return lambda **settings: run_app(make_settings(**settings))


@pytest.fixture
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app with the settings of `make_settings`."""
    async with running() as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_client(
    tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """The same for all tests of a module, which run on one loop: `pytestmark = pytest.mark.asyncio(loop_scope=...)`."""
    shadow = {"path": tmp_path_factory.mktemp("shadow") / "shadow.sqlite"}
    async with run_app(Settings(**{"bundle": tiny_bundle.path, "shadow": shadow, **PLAN})) as client:
        yield client


@pytest.fixture
def write_keys(tmp_path: Path) -> Callable[..., Path]:
    """`write_keys("name:options", key=...)`: the file, replaced as a mounted secret is."""

    def write(**keys: str) -> Path:
        """`name="key"` or `name="key:options"`, with `__` and more after a name that has several."""
        lines = [key_line(name.split("__")[0], *value.split(":")) for name, value in keys.items()]
        (tmp_path / "keys.new").write_text("\n".join(lines))
        os.replace(tmp_path / "keys.new", tmp_path / "keys")
        return tmp_path / "keys"

    return write


class Gate:
    """Makes every run of a graph wait, once it is closed, until it is opened."""

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
        self.opened.clear()
        self.reached.clear()

    async def held(self) -> None:
        """Wait until a run is at the gate."""
        assert await asyncio.to_thread(self.reached.wait, PATIENCE)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Runs of graphs in this process wait at it from `gate.close()` until `gate.opened.set()`."""
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


@dataclass
class Serving:
    """A server in this process, on a real socket."""

    server: Server
    app: FastAPI
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Do what SIGTERM does."""
        self.server.handle_exit(signal.SIGTERM, None)


Listening = Callable[..., AbstractAsyncContextManager[Serving]]


@asynccontextmanager
async def run_server(settings: Settings) -> AsyncIterator[Serving]:
    app = create_app(settings)
    server, listener = Server(app, settings), bind("127.0.0.1", 0)
    serving = Serving(server, app, listener.getsockname()[1])
    running = asyncio.create_task(server.serve([listener]))
    try:
        async with asyncio.timeout(PATIENCE):
            while not server.started:
                await asyncio.sleep(0.001)
        yield serving
    finally:
        serving.stop()
        await running
        gc.unfreeze()


@pytest.fixture
def listening(make_settings: MakeSettings) -> Listening:
    """`async with listening(**settings) as serving`: see `Serving`; it ends with no grace unless settings say so."""
    quick = {"host": "127.0.0.1", "port": 0, "drain_seconds": 0, "idle_grace_seconds": 0}
    return lambda **settings: run_server(make_settings(**{**quick, **settings}))


@dataclass
class Process:
    """`python -m service`, its port once it listens, and what it logged."""

    process: asyncio.subprocess.Process
    following: asyncio.Task[None] = field(init=False)
    port: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def __post_init__(self) -> None:
        self.following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())
            if self.lines[-1].startswith("{"):
                self.port = json.loads(self.lines[-1]).get("port", self.port)

    async def ended(self) -> int:
        """The exit status, all that was logged having been read."""
        async with asyncio.timeout(PATIENCE):
            await self.following
            return await self.process.wait()


StartProcess = Callable[..., AbstractAsyncContextManager[Process]]


@pytest.fixture
def start_process(tiny_bundle: Bundle, tmp_path: Path) -> StartProcess:
    """`async with start_process(REFLUX_X=...) as process`: a real server, listening unless it refused to start."""

    @asynccontextmanager
    async def start(**variables: str) -> AsyncIterator[Process]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("REFLUX_")},
            "REFLUX_BUNDLE": str(tiny_bundle.path),
            "REFLUX_HOST": "127.0.0.1",
            "REFLUX_PORT": "0",
            "REFLUX_SHADOW__PATH": str(tmp_path / "shadow.sqlite"),
            **{f"REFLUX_{name.upper()}": str(value) for name, value in PLAN.items()},
            **variables,
        }
        process = Process(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service", cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
            )
        )
        try:
            async with asyncio.timeout(PATIENCE):
                while not process.port and not process.following.done():
                    await asyncio.sleep(0.01)
            yield process
        finally:
            if process.process.returncode is None:
                process.process.kill()
            await process.ended()

    return start


@dataclass
class Connection:
    """One HTTP/1.1 connection, as bare as can be, so that what the server does to it is seen."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, body: bytes, *, method: str = "POST", path: str = "/classify", length: int | None = None) -> None:
        """Write a request; with a `length`, `body` is only the beginning of one."""
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: reflux\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body) if length is None else length}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)

    async def receive(self) -> tuple[int, dict[str, str], Any]:
        """Read an answer: status, headers, JSON body."""
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, json.loads(body)

    async def ask(self, body: Any, **options: Any) -> tuple[int, dict[str, str], Any]:
        self.send(json.dumps(body).encode(), **options)
        return await self.receive()

    def close(self) -> None:
        self.writer.close()


@pytest.fixture
def connect() -> Callable[[int], Any]:
    """`await connect(port)`: a bare connection to a server."""
    return Connection.open
