"""Heads of requests that were read before: a client sends the same bytes again, but for the length of its body.

What HTTP's parser and the short way make of a head depends on its bytes alone, so it is kept by them. A head with an id
of its own never comes again and is not kept.
"""

from __future__ import annotations

from typing import NamedTuple

from service.api.hot import HotRoute
from service.middleware import REQUEST_ID

_MOST = 1024
_LONGEST = 2048
"""Only so many heads are kept, and none with more bytes."""

_END = b"\r\n\r\n"
_UNIQUE = (REQUEST_ID, b"traceparent")


class Head(NamedTuple):
    """The head of a plain request whose body has `length` bytes."""

    route: HotRoute
    headers: dict[bytes, bytes]
    length: int


class Heads:
    """Those that are known. They belong on the event loop."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def of(self, data: bytes) -> Head | None:
        """The head of what is one whole request; None where it is not, or not known."""
        end = data.find(_END) + len(_END)
        head = self._known.get(data[:end])
        return head if head is not None and len(data) - end == head.length else None

    def learn(self, data: bytes, head: Head) -> None:
        """Keep the head of what has been read as one plain request, if it is nothing else."""
        end = data.find(_END) + len(_END)
        if len(data) - end != head.length or end > _LONGEST or any(name in head.headers for name in _UNIQUE):
            return
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[data[:end]] = head
