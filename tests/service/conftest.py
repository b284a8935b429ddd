"""The service in this process, without a socket or on one, and as a process of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import structlog

from export.bundle.format import Bundle
from service.auth.keyfile import key_line
from service.settings import Settings
from tests.support.connection import Connection
from tests.support.service_here import ADMIN, Gate, Serving, run_app, run_server
from tests.support.service_process import ServiceProcess, service_process

PLAN: dict[str, Any] = {"workers": 1, "batch_tokens": 512}
"""How a service runs its graph unless a test says otherwise. Tuning takes a second, and its result varies."""

MakeSettings = Callable[..., Settings]
Running = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
Listening = Callable[..., AbstractAsyncContextManager[Serving]]
StartProcess = Callable[..., AbstractAsyncContextManager[ServiceProcess]]


@pytest.fixture(autouse=True, scope="session")
def plain_logging() -> Iterator[None]:
    """Turn off structlog's slow tracebacks, and its caching of loggers between tests."""
    configure = structlog.configure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            structlog, "configure", lambda **given: configure(**{**given, "cache_logger_on_first_use": False})
        )
        structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
        yield


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """Restore the configuration of structlog."""
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


@pytest.fixture
def running(make_settings: MakeSettings) -> Running:
    """`async with running(**settings) as client`: a client of a started app; with `admin`, an administrator's."""
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
    """A client that the tests of a module share; it needs `pytestmark = pytest.mark.asyncio(loop_scope="module")`."""
    settings: Any = {
        "bundle": tiny_bundle.path,
        "shadow": {"path": tmp_path_factory.mktemp("shadow") / "shadow.sqlite"},
    }
    async with run_app(Settings(**settings, **PLAN)) as client:
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


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate at which runs of graphs wait from `gate.close()` until `gate.opened.set()`."""
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


@pytest.fixture
def listening(make_settings: MakeSettings) -> Listening:
    """`async with listening(**settings) as serving`: a server on a socket, without grace periods at its end."""
    quick = {"host": "127.0.0.1", "port": 0, "drain_seconds": 0, "idle_grace_seconds": 0}
    return lambda **settings: run_server(make_settings(**{**quick, **settings}))


@pytest.fixture
def start_process(tiny_bundle: Bundle, tmp_path: Path) -> StartProcess:
    """`async with start_process(REFLUX_X=...) as process`: the service of `tiny_bundle`, see `service_process`."""
    defaults = {
        "REFLUX_BUNDLE": str(tiny_bundle.path),
        "REFLUX_SHADOW__PATH": str(tmp_path / "shadow.sqlite"),
        **{f"REFLUX_{name.upper()}": str(value) for name, value in PLAN.items()},
    }
    return lambda **variables: service_process(**{**defaults, **variables})


@pytest.fixture
def connect() -> Callable[[int], Any]:
    """`await connect(port)`: a `Connection` to a server."""
    return Connection.open
