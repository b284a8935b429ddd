"""A compressed body is read as what was compressed, within the same limits."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from service.errors import MalformedBodyError, UnsupportedMediaTypeError
from service.http.content_encoding import decoded
from tests.support.connection import Connection

zstd = pytest.importorskip(
    "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
    reason="needs backports.zstd, a dependency below Python 3.14",
)

BODY = json.dumps({"text": "my parcel is late, and the courier has no address"}).encode()
MEBIBYTE = 1 << 20


def test_a_body_of_zstd_is_decompressed() -> None:
    for encoding in (b"zstd", b"ZSTD", b" zstd "):
        assert decoded(zstd.compress(BODY), encoding, len(BODY)) == BODY


@pytest.mark.parametrize("encoding", [b"", b"identity", b" Identity"])
def test_a_body_without_an_encoding_is_as_it_is(encoding) -> None:
    assert decoded(BODY, encoding, 1) == BODY


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd, gzip", b"\xff"])
def test_another_encoding_is_refused_with_the_one_that_is_read(encoding) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="`Content-Encoding: zstd`, not ") as raised:
        decoded(BODY, encoding, MEBIBYTE)
    assert raised.value.headers == {"accept-encoding": "zstd"}


@pytest.mark.parametrize(
    "body",
    [b"", BODY, zstd.compress(BODY)[:-5], zstd.compress(BODY) + b"more", zstd.compress(BODY) * 2, b"\x28\xb5\x2f\xfd"],
)
def test_a_body_that_is_not_one_zstd_frame_is_malformed(body) -> None:
    with pytest.raises(MalformedBodyError, match="zstd"):
        decoded(body, b"zstd", MEBIBYTE)


def test_no_more_is_decompressed_than_the_limit() -> None:
    bomb = zstd.compress(b" " * 64 * MEBIBYTE)
    assert len(bomb) < 64 * 1024
    assert len(decoded(bomb, b"zstd", 100)) == 101


def test_a_body_may_not_ask_for_a_large_window() -> None:
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    body = compressor.compress(BODY, zstd.ZstdCompressor.FLUSH_BLOCK) + compressor.flush()
    with pytest.raises(MalformedBodyError, match="not zstd"):
        decoded(body, b"zstd", MEBIBYTE)


async def test_a_route_reads_it_on_a_socket_within_its_limits(listening, connect) -> None:
    async def ask(body: bytes, encoding: str) -> tuple[int, dict[str, str], Any]:
        connection.send(body, headers={"content-encoding": encoding})
        return await connection.receive()

    async with listening(max_body_bytes=1000) as serving:
        connection: Connection = await connect(serving.port)
        plain = (await connection.ask(json.loads(BODY)))[2]["results"]
        for _ in range(2):  # a head that comes again is known by its bytes
            status, _, body = await ask(zstd.compress(BODY), "zstd")
            assert (status, body["results"]) == (200, plain)
        status, _, body = await ask(zstd.compress(b" " * 2000), "zstd")
        assert (status, body["error"]["code"]) == (413, "too_large")
        status, headers, _ = await ask(BODY, "gzip")
        assert (status, headers["accept-encoding"]) == (415, "zstd")
        connection.close()
