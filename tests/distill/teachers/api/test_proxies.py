"""Proxies of the environment are used as httpx uses them; one that does not do is named, and no password told."""

from __future__ import annotations

import asyncio
import base64
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from distill.teachers import create
from distill.teachers.api.connections import Connections
from distill.teachers.api.errors import ApiError
from distill.teachers.api.proxies import proxy_for
from distill.teachers.errors import TeacherError
from tests.support.sockets import dead_address, tcp_server

SECRET = "s3cret-of-the-proxy"
SERVER = "http://api.example.invalid"


@pytest.fixture(autouse=True)
def bare(monkeypatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Proxy:
    """Answers every request with a status, and keeps the first line and the credentials of each."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.address = ""
        self.heard: list[tuple[str, str]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *rest = head.decode().split("\r\n")
                given = [line.split(" ", 1)[1] for line in rest if line.lower().startswith("proxy-authorization")]
                self.heard.append((first, given[0] if given else ""))
                writer.write(f"HTTP/1.1 {self.status}\r\ncontent-length: 2\r\n\r\nok".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    app = Proxy()
    async with tcp_server(app) as app.address:
        yield app


@pytest.fixture
def dead() -> str:
    """An address at which nobody listens."""
    return dead_address()


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=Connections(url)) as client:
        return await client.get(f"{url}/now")


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", "HTTP://", "", " http://"])
async def test_a_proxy_is_used_whatever_it_is_named_by_and_however_it_is_written(
    proxy, monkeypatch, name: str, scheme: str
) -> None:
    monkeypatch.setenv(name, scheme + proxy.address)
    assert (await get(SERVER)).text == "ok"
    assert proxy.heard == [(f"GET {SERVER}/now HTTP/1.1", "")]


async def test_a_server_with_tls_is_reached_through_a_tunnel(proxy, monkeypatch) -> None:
    monkeypatch.setenv("https_proxy", proxy.address)
    monkeypatch.setenv("http_proxy", "socks4://other:1")  # which is for others
    proxy.status = "502 Bad Gateway"
    with pytest.raises(TeacherError, match=rf"the proxy http://{proxy.address}, which https_proxy names.*502"):
        await get("https://api.example.invalid")
    assert proxy.heard == [("CONNECT api.example.invalid:443 HTTP/1.1", "")]


async def test_a_proxy_that_breaks_off_is_named_and_the_call_may_be_charged(monkeypatch) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    async with tcp_server(hang_up) as address:
        monkeypatch.setenv("http_proxy", address)
        with pytest.raises(ApiError, match=r"the proxy http://.*which http_proxy names, .* it broke off") as failure:
            await get(SERVER)
    assert failure.value.retryable
    assert failure.value.charged


async def test_credentials_go_to_the_proxy_and_into_no_message(proxy, monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", f"me:{SECRET}@{proxy.address}")
    assert (await get(SERVER)).text == "ok"
    assert proxy.heard[0][1] == "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
    proxy.status = "407 Proxy Authentication Required"
    with pytest.raises(TeacherError, match=r"which http_proxy names.*other credentials") as failure:
        await get(SERVER)
    assert SECRET not in str(failure.value)


@pytest.mark.parametrize(("name", "url"), [("http_proxy", SERVER), ("HTTPS_PROXY", "https://api.example.invalid")])
async def test_a_proxy_that_is_down_is_named_and_no_password_told(monkeypatch, dead, name: str, url: str) -> None:
    monkeypatch.setenv(name, f"http://me:{SECRET}@{dead}")
    with pytest.raises(TeacherError) as failure:
        await get(url)
    said = str(failure.value)
    assert f"the proxy http://{dead}, which {name} names, does not lead to api.example.invalid" in said
    assert f"unset {name} or add api.example.invalid to no_proxy" in said
    assert SECRET not in said
    assert failure.value.retryable


@pytest.fixture
def silent() -> Iterator[str]:
    """An address whose packets are dropped: no connection to it is made or refused, since its queue is full."""
    with ExitStack() as opened:
        listening = opened.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(listening.getsockname())
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses")
@pytest.mark.parametrize("proxied", [True, False])
async def test_what_drops_packets_is_not_there_and_is_not_said_to_be_slow(monkeypatch, silent, proxied: bool) -> None:
    config = {"kind": "openai", "model": "m", "usd_per_million": {"input": 0, "output": 0}, "attempts": 1}
    base_url = "http://vllm:8000/v1" if proxied else f"http://{silent}/v1"
    if proxied:
        monkeypatch.setenv("http_proxy", silent)
    made = create(config | {"timeout_seconds": 0.2, "base_url": base_url}, ("a", "b"))
    said = f"the proxy http://{silent}, which http_proxy names" if proxied else "cannot be reached .*base_url"
    with pytest.raises(ApiError, match=said) as failure:
        await made.ask(["a text"])
    assert failure.value.retryable
    assert not failure.value.charged
    await made.aclose()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("socks4://me:{secret}@h:1080", "kind 'socks4'"),
        ("ftp://h:21", "kind 'ftp'"),
        ("socks5://h:1080", r"httpx\[socks\]"),
        ("SOCKS5H://h:1080", r"httpx\[socks\]"),
        ("http://h:{secret}", "port is invalid"),
        ("http://h:99999", "no port 99999"),
        ("h:0", "no port 0"),
        ("http://", "no host"),
        ("http://me:{secret}#x@h:1", "port is invalid"),
        ("://h:1", "kind ''"),
    ],
)
@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_that_cannot_be_used_is_one_line_that_names_the_variable(
    monkeypatch, value: str, why: str, name: str
) -> None:
    monkeypatch.setattr("distill.teachers.api.proxies.find_spec", lambda name: None)
    monkeypatch.setenv(name, value.format(secret=SECRET))
    config = {"kind": "openai", "model": "m", "base_url": SERVER, "usd_per_million": {"input": 0, "output": 0}}
    terms = {"terms": {"acknowledged": True, "reference": "r"}}
    with pytest.raises(TeacherError, match=f"{name} names no proxy that can be used: .*{why}") as failure:
        create(config | terms, ("a", "b"))
    assert SECRET not in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    "excepted",
    [
        "api.example.invalid",
        "example.invalid",
        ".example.invalid",
        "*",
        "other, API.example.invalid",
        "api.example.invalid:8000",
    ],
)
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_hosts_that_no_proxy_names_are_reached_without(monkeypatch, name: str, excepted: str) -> None:
    monkeypatch.setenv("http_proxy", "socks4://h:1")
    monkeypatch.setenv(name, excepted)
    assert proxy_for("http://api.example.invalid:8000/v1") is None


@pytest.mark.parametrize(
    ("host", "excepted", "used"),
    [
        ("10.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", False),
        ("11.1.2.3", "10.0.0.0/8,localhost", True),
        ("[fd00::1]", "fd00::/8", False),
        ("vllm:8000", "vllm:8000", False),
        ("vllm:8001", "vllm:8000", True),
        ("vllm", "", True),
    ],
)
def test_networks_and_ports_may_be_excepted(monkeypatch, host: str, excepted: str, used: bool) -> None:
    monkeypatch.setenv("http_proxy", "h:3128")
    monkeypatch.setenv("no_proxy", excepted)
    assert (proxy_for(f"http://{host}/v1") is not None) is used


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_an_empty_variable_names_none(monkeypatch, name: str) -> None:
    monkeypatch.setenv(name, " ")
    assert proxy_for(SERVER) is None


def test_a_servers_own_scheme_goes_before_all_and_lower_case_before_upper(monkeypatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "h:1")
    monkeypatch.setenv("HTTP_PROXY", "h:2")
    monkeypatch.setenv("http_proxy", "h:3")
    found = proxy_for(SERVER)
    assert found is not None
    assert (found.address, found.variable) == ("http://h:3", "http_proxy")
    assert proxy_for("https://x").variable == "ALL_PROXY"
