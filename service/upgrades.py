"""Offers of another protocol, such as HTTP/2 over cleartext, which a server may leave unanswered; this one does.

HTTP's parser stops behind the head of a request with an offer, as if all that follows were in the other protocol, and
would read the body as another request. So the head is given to a new parser, with the offer left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httptools

_UPGRADE = b"upgrade"


def without_offer(method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write the head of a request anew, without its `Upgrade`; the names of `headers` are in lower case."""
    lines = [b"%b: %b\r\n" % (name, value) for name, value in headers if name != _UPGRADE]
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, url, version.encode(), b"".join(lines))


def new_parser(protocol: Any) -> httptools.HttpRequestParser:
    """Make a parser as uvicorn does, which reads no more behind a request that closes the connection."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
