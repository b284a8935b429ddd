"""The headers that every answer of a server has, as uvicorn keeps them and as they go over the wire."""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]

CLOSE = (b"connection", b"close")

_written: tuple[Headers, bytes] = ([], b"")


def written(headers: Headers) -> bytes:
    """Headers as lines, kept as long as they are the same list: the server makes a new one each second."""
    global _written
    if headers is not _written[0]:
        _written = (headers, b"".join(b"%b: %b\r\n" % header for header in headers))
    return _written[1]
