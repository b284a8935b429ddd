"""Reads and unpacks the body of a response piece by piece, within a limit of bytes.

A few kilobytes can unpack to gigabytes, and a server can send without end; memory holds no more than the limit.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator

import httpx

ENCODINGS = "gzip, deflate"
"""The encodings to request: those that can be unpacked here."""

_UNPACKED = frozenset({"", "identity", "none", "utf-8"})  # some servers send the last two, which are no encodings

_PIECE = 1 << 18
_MEMBER = b"\x1f"  # the first byte of a member of gzip
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class TooLargeError(Exception):
    """A body exceeds its limit."""


async def pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the body as it comes in, unpacked, in pieces of at most 256 KiB if it was packed.

    Raises httpx.DecodingError if it cannot be unpacked or ends too soon.
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
    unpack = _Decoder(encodings[0])
    try:
        async for part in stream:
            for piece in unpack(part):
                yield piece
        if not unpack.ended:
            raise httpx.DecodingError("it ends too soon", request=response.request)
    except zlib.error as error:
        raise httpx.DecodingError(str(error), request=response.request) from error


async def whole(response: httpx.Response, max_bytes: int) -> bytes:
    """Return the unpacked body. Raises TooLargeError as soon as it exceeds `max_bytes`."""
    found = bytearray()
    async for piece in pieces(response):
        if len(found) + len(piece) > max_bytes:
            raise TooLargeError
        found += piece
    return bytes(found)


async def lines(response: httpx.Response, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the lines of the unpacked body that are not blank. Raises TooLargeError for one above `max_bytes`."""
    rest = bytearray()
    async for piece in pieces(response):
        *ended, begun = piece.split(b"\n")
        for line in ended:
            rest += line
            if len(rest) > max_bytes:
                raise TooLargeError
            if rest.strip():
                yield bytes(rest)
            rest.clear()
        rest += begun
        if len(rest) > max_bytes:
            raise TooLargeError
    if rest.strip():
        yield bytes(rest)


class _Decoder:
    """Unpacks gzip, of one or more members, or deflate, with or without its header."""

    def __init__(self, encoding: str) -> None:
        self._window = _ZLIB if encoding == "deflate" else _GZIP
        self._inflate = zlib.decompressobj(self._window)
        self._begun = False
        self._head = b""  # the bytes before the first unpacked piece

    @property
    def ended(self) -> bool:
        """Whether the body so far is complete; an empty one is."""
        return self._inflate.eof or not (self._begun or self._head)

    def __call__(self, part: bytes) -> Iterator[bytes]:
        """Yield what the next part of the packed body unpacks to. Raises zlib.error for another format."""
        while part:
            if self._inflate.eof:
                if self._window != _GZIP or part[:1] != _MEMBER:
                    return  # padding, which gzip's own tools ignore too
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
