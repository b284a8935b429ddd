"""A real registry, from Debian's package `docker-registry`, and a proxy before it that fails as a test says."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.sockets import dead_address
from tests.support.threaded_server import threaded_server
from tests.support.waiting import PATIENCE

REGISTRY = shutil.which("docker-registry")

USER, PASSWORD = "ci", "let me in"
_HTPASSWD = "ci:$2b$04$abcdefghijklmnopqrstuuTnc8amReAFiMHxaSoW9U22KarbWnkSm"  # bcrypt of PASSWORD


@contextmanager
def registry(folder: Path, auth: dict[str, Any] | None = None) -> Iterator[str]:
    """Start a registry that keeps its files in `folder`; yields its address, `host:port`. Skips where there is none."""
    if REGISTRY is None:
        pytest.skip("there is no registry (Debian: docker-registry)")
    address = dead_address()
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "files")}},
        "http": {"addr": address},
    } | ({"auth": auth} if auth else {})
    file = folder / "registry.json"
    file.write_text(json.dumps(config))  # JSON is YAML
    with subprocess.Popen(
        [REGISTRY, "serve", str(file)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        try:
            _wait(f"http://{address}/v2/")
            yield address
        finally:
            process.terminate()


def password_file(folder: Path) -> dict[str, Any]:
    """Return the configuration of a registry that knows USER with PASSWORD alone."""
    (folder / "htpasswd").write_text(f"{_HTPASSWD}\n")
    return {"htpasswd": {"realm": "registry", "path": str(folder / "htpasswd")}}


def _wait(url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            httpx.get(url)
            return
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@dataclass
class Fault:
    """What happens to requests of a method whose path contains `part`, `times` times."""

    method: str
    part: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of the answer, also of one that is otherwise the registry's."""
    change: Callable[[bytes], bytes] | None = None
    """What becomes of the body of the answer, whose length in the header stays."""
    content: bytes | None = None
    """What is answered instead."""
    spoil: bool = False
    """The registry gets another body of this length."""
    drop: bool = False
    """Close the connection without an answer."""


@dataclass
class Proxy:
    """A proxy before a registry. `faults` happen in their order; `requests` are `METHOD path`, with a range if one."""

    address: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def fault(self, method: str, path: str) -> Fault | None:
        """Take the fault of a request."""
        found = next((each for each in self.faults if each.method == method and each.part in path and each.times), None)
        if found is not None:
            found.times -= 1
        return found


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """Serve a proxy before the server at `upstream`, `host:port`."""
    with httpx.Client(base_url=f"http://{upstream}", timeout=PATIENCE) as client, threaded_server(_Handler) as server:
        made = Proxy(f"127.0.0.1:{server.server_port}")
        server.proxy, server.client = made, client  # type: ignore[attr-defined]
        yield made


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def _answer(self) -> None:
        proxy: Proxy = self.server.proxy
        body = self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        proxy.headers.append(headers)
        part = f" {headers['range']}" if "range" in headers else ""
        proxy.requests.append(f"{self.command} {self.path}{part}")
        fault = proxy.fault(self.command, self.path)
        if fault is not None and (fault.drop or fault.status):
            self.close_connection = True
            if fault.status:
                self._send(fault.status, fault.headers | {"content-length": "0"}, b"")
            return
        if fault is not None and fault.spoil:
            body = bytes(len(body))
        # The host stays, so that the registry's addresses lead here.
        answer = self.server.client.request(self.command, self.path, headers=headers, content=body)
        content = answer.content
        if fault is not None and fault.change is not None:
            content = fault.change(content)
            self.close_connection = True
        dropped = ("transfer-encoding", "connection", "content-encoding")
        sent = {name: value for name, value in answer.headers.items() if name not in dropped}
        if fault is not None and fault.content is not None:
            content = fault.content
            sent["content-length"] = str(len(content))
        self._send(answer.status_code, sent | (fault.headers if fault is not None else {}), content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _answer  # noqa: N815

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def basic(user: str = USER, password: str = PASSWORD) -> str:
    """Return a login as Docker's configuration holds it."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()
