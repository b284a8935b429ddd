"""What a server sends is read and unpacked within bounds: in size, and in time."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from distill.teachers.account import NoAccount
from distill.teachers.api.client import Api, ApiRequest
from distill.teachers.api.config import ApiConfig
from distill.teachers.api.errors import ApiError
from distill.teachers.api.pricing import Price, Usage
from tests.support.fake_clock import now, with_fake_clock

MOST = 100_000
ANSWER = {"said": "x" * 50_000}
PACKED = {
    "": lambda content: content,
    "identity": lambda content: content,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZip": lambda content: gzip.compress(content[:9]) + gzip.compress(content[9:]),  # in members
    "gzip,": lambda content: gzip.compress(content) + bytes(20),  # padded
    "utf-8": lambda content: content,
    " ": lambda content: content,
    "deflate": zlib.compress,
    "Deflate": lambda content: zlib.compress(content)[2:-4],  # without its header, as some servers do
}


class Sends(httpx.AsyncByteStream):
    """Parts, with a pause before each; `taken` counts them."""

    def __init__(self, parts: Iterator[bytes], pause: float = 0.0) -> None:
        self.parts, self.pause = parts, pause
        self.taken = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            self.taken += 1
            await asyncio.sleep(self.pause)
            yield part

    async def aclose(self) -> None:
        self.closed = True


def endless(part: bytes) -> Iterator[bytes]:
    while True:
        yield part


def api(body: Sends, status: int = 200, encoding: str = "", **settings: Any) -> Api:
    config = ApiConfig(
        **{"base_url": "http://it", "model": "m", "key_env": "K", "usd_per_million": Price(input=1, output=1)},
        **{"attempts": 1, "max_response_bytes": MOST} | settings,
    )
    headers = {"content-encoding": encoding} if encoding else {}

    async def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "gzip, deflate"
        return httpx.Response(status, headers=headers, stream=body)

    usage, transport = Usage(input=1), httpx.MockTransport(handle)
    return Api(config, NoAccount(), name="it", headers={}, usage=lambda _: usage, transport=transport)


async def ask(made: Api) -> Any:
    response, _ = await made.call(ApiRequest("/chat", {}, max_output=1), lambda response: response)
    return response


@pytest.mark.parametrize("encoding", PACKED)
@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
async def test_an_answer_is_read_however_it_is_packed_and_cut_up(encoding: str, size: int) -> None:
    content = PACKED[encoding](json.dumps(ANSWER).encode())
    body = Sends(content[start : start + size] for start in range(0, len(content), size))
    assert await ask(api(body, encoding=encoding)) == ANSWER
    assert body.closed


@pytest.mark.parametrize("encoding", PACKED)
async def test_an_answer_that_is_too_large_ends_the_run_and_is_not_asked_for_again(encoding: str) -> None:
    content = PACKED[encoding](b" " * (MOST + 1))
    body = Sends(iter([content]))
    with pytest.raises(ApiError, match=r"it answers with more than 0.0954 MiB.*max_response_bytes") as failure:
        await ask(api(body, encoding=encoding))
    assert not failure.value.retryable
    assert failure.value.charged


async def test_an_answer_without_end_is_left_once_it_is_too_large() -> None:
    body = Sends(endless(b" " * 1000))
    with pytest.raises(ApiError, match="more than"):
        await ask(api(body))
    assert body.taken == MOST // 1000 + 1
    assert body.closed


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_an_answer_that_grows_when_it_is_unpacked_does_not_grow_in_memory(pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(200_000_000))
    body = Sends(iter([bomb]))
    tracemalloc.start()
    try:
        with pytest.raises(ApiError, match="more than"):
            await ask(api(body, encoding="gzip" if pack is gzip.compress else "deflate"))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2_000_000


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "rot13"])
async def test_what_is_packed_as_nobody_asked_is_refused_unread(encoding: str) -> None:
    body = Sends(endless(b"x"))
    with pytest.raises(ApiError, match=f"packed as {encoding}, and gzip, deflate was asked for"):
        await ask(api(body, encoding=encoding))
    assert body.taken == 0


async def test_what_is_not_packed_as_it_says_is_an_answer_broken_off() -> None:
    with pytest.raises(ApiError, match="broke off its answer") as failure:
        await ask(api(Sends(iter([b"{}"])), encoding="gzip"))
    assert failure.value.retryable


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_packed_answer_that_ends_too_soon_is_broken_off(encoding: str) -> None:
    content = PACKED[encoding](json.dumps(ANSWER).encode())[:-6]
    with pytest.raises(ApiError, match=r"broke off its answer .it ends too soon") as failure:
        await ask(api(Sends(iter([content])), encoding=encoding))
    assert failure.value.retryable


@pytest.mark.parametrize("encoding", ["br", "gzip"])
async def test_of_an_error_that_cannot_be_unpacked_the_status_is_told(encoding: str) -> None:
    with pytest.raises(ApiError, match="it answered 429: Too Many Requests"):
        await ask(api(Sends(iter([b"no"])), status=429, encoding=encoding))


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_of_an_error_without_end_the_status_is_told(encoding: str) -> None:
    content = b"no " * MOST
    body = Sends(endless(gzip.compress(content) if encoding else content))
    with pytest.raises(ApiError, match="it answered 400") as failure:
        await ask(api(body, status=400, encoding=encoding))
    assert failure.value.status == 400


@with_fake_clock
async def test_an_answer_that_comes_drop_by_drop_has_its_time_and_no_more() -> None:
    with pytest.raises(ApiError, match=r"did not answer in time \(in 60 s\)") as failure:
        await ask(api(Sends(endless(b" "), pause=10.0)))
    assert failure.value.retryable
    assert now() == 60.0


async def test_json_that_is_nested_without_end_is_no_answer() -> None:
    with pytest.raises(ApiError, match="not JSON"):
        await ask(api(Sends(iter([b"[" * 90_000]))))
