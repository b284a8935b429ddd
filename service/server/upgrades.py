"""Ignores offers of another protocol in a request, such as HTTP/2 over cleartext, as a server may.

The parser stops after the head of such a request, as if the rest were in the other protocol, and would then take the
body for another request. So a new parser reads the head again, without its `Upgrade`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httptools

_UPGRADE = b"upgrade"


def without_offer(method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the head of a request without its `Upgrade`; the names of `headers` are in lower case."""
    lines = [b"%b: %b\r\n" % (name, value) for name, value in headers if name != _UPGRADE]
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, url, version.encode(), b"".join(lines))


def new_parser(protocol: Any) -> httptools.HttpRequestParser:
    """Make a parser as uvicorn does: what follows a request that closes the connection is ignored, not an error."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
