"""Calls share connections, one each, and a call that fails leaves its connection fit for use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest

from distill.teachers.api.connections import Connections
from tests.support.sockets import dead_address, tcp_server


@dataclass
class Server:
    """Answers `/now` at once, `/later` when released, and breaks off at `/cut`."""

    url: str = ""
    connections: int = 0
    heard: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                self.heard.put_nowait(head.split(b"\r\n")[0].decode())
                if path == "/later":
                    await self.released.wait()
                if path == "/cut":
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
                    break
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    app = Server()
    async with tcp_server(app) as address:
        app.url = f"http://{address}"
        yield app
        app.released.set()


@pytest.fixture
async def client(server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, transport=Connections(server.url)) as opened:
        yield opened


async def test_one_call_after_the_other_takes_one_connection(server, client) -> None:
    for _ in range(5):
        assert (await client.get("/now")).text == "ok"
    assert server.connections == 1


async def test_calls_at_once_take_a_connection_each_and_later_ones_take_those(server, client) -> None:
    for _ in range(3):
        server.released.clear()
        calls = [asyncio.create_task(client.get("/later")) for _ in range(8)]
        for _ in calls:
            await server.heard.get()
        server.released.set()
        assert [(await call).text for call in calls] == ["ok"] * 8
    assert server.connections == 8


async def test_a_call_that_is_cancelled_leaves_nothing_that_the_next_one_waits_for(server, client) -> None:
    call = asyncio.create_task(client.get("/later"))
    await server.heard.get()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await client.get("/now")).text == "ok"
    assert server.connections == 2


async def test_a_call_that_is_broken_off_is_httpx_own_error_and_leaves_nothing_either(server, client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/cut")
    assert (await client.get("/now")).text == "ok"


async def test_a_call_that_takes_too_long_is_httpx_own_error(server, client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await client.get("/later", timeout=0.05)
    assert (await client.get("/now")).text == "ok"


async def test_a_response_that_is_not_read_to_its_end_leaves_nothing_either(server, client) -> None:
    async with client.stream("GET", "/now"):
        pass
    assert (await client.get("/now")).text == "ok"


async def test_a_server_that_is_down_is_httpx_own_error() -> None:
    url = f"http://{dead_address()}"
    async with httpx.AsyncClient(base_url=url, transport=Connections(url)) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("/now")
