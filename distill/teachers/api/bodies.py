"""Reads and unpacks the body of a response piece by piece, within a limit of bytes.

A few kilobytes can unpack to gigabytes, and a server can send for ever; memory holds no more than the limit.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator

import httpx

ENCODINGS = "gzip, deflate"
"""The encodings to ask a server for: those that can be unpacked here."""

_UNPACKED = frozenset({"", "identity", "none", "utf-8"})  # the last two are no encodings, but are sent

_PIECE = 1 << 18
_MEMBER = b"\x1f"  # how a member of gzip begins
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class TooLargeError(Exception):
    """A body is larger than it may be."""


async def pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the body as it comes in. A packed one is unpacked, in pieces of 256 KiB at most.

    Raises httpx.DecodingError for what cannot be unpacked, or ends too soon.
    """
    given = [one.lower() for one in response.headers.get_list("content-encoding", True)]
    encodings = [one for one in given if one not in _UNPACKED]
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    if not encodings:
        async for part in stream:
            yield part
        return
    if encodings not in (["gzip"], ["x-gzip"], ["deflate"]):
        raise httpx.DecodingError(
            f"it is packed as {', '.join(encodings)[:40]}, and {ENCODINGS} was asked for", request=response.request
        )
    unpack = _Unpacking(encodings[0])
    try:
        async for part in stream:
            for piece in unpack(part):
                yield piece
        if not unpack.ended:
            raise httpx.DecodingError("it ends too soon", request=response.request)
    except zlib.error as error:
        raise httpx.DecodingError(str(error), request=response.request) from error


async def whole(response: httpx.Response, most: int) -> bytes:
    """Return the unpacked body. Raises TooLargeError as soon as more than `most` bytes of it were read."""
    found = bytearray()
    async for piece in pieces(response):
        if len(found) + len(piece) > most:
            raise TooLargeError
        found += piece
    return bytes(found)


async def lines(response: httpx.Response, most: int) -> AsyncIterator[bytes]:
    """Yield the lines of the unpacked body, without blank ones. Raises TooLargeError for one above `most` bytes."""
    rest = bytearray()
    async for piece in pieces(response):
        *ended, begun = piece.split(b"\n")
        for line in ended:
            rest += line
            if len(rest) > most:
                raise TooLargeError
            if rest.strip():
                yield bytes(rest)
            rest.clear()
        rest += begun
        if len(rest) > most:
            raise TooLargeError
    if rest.strip():
        yield bytes(rest)


class _Unpacking:
    """Unpacks gzip, of one or more members, or deflate, which some servers send without its header."""

    def __init__(self, encoding: str) -> None:
        self._window = _ZLIB if encoding == "deflate" else _GZIP
        self._inflate = zlib.decompressobj(self._window)
        self._begun = False
        self._head = b""  # what came before the first piece

    @property
    def ended(self) -> bool:
        """Whether what came so far is whole; nothing at all is."""
        return self._inflate.eof or not (self._begun or self._head)

    def __call__(self, part: bytes) -> Iterator[bytes]:
        """What a part of the packed body unpacks to. Raises zlib.error for one that is not packed like that."""
        while part:
            if self._inflate.eof:
                if self._window != _GZIP or part[:1] != _MEMBER:
                    return  # padding, which gzip's own tools leave out too
                self._inflate = zlib.decompressobj(_GZIP)
            try:
                piece = self._inflate.decompress(part, _PIECE)
            except zlib.error:
                if self._begun or self._window != _ZLIB:
                    raise
                self._window = _RAW
                self._inflate = zlib.decompressobj(_RAW)
                part = self._head + part
                continue
            self._begun = self._begun or bool(piece)
            self._head = b"" if self._begun else self._head + part
            if piece:
                yield piece
            part = self._inflate.unconsumed_tail or self._inflate.unused_data
