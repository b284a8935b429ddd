"""Heads of requests that were read before: a client sends the same bytes again, but for the length of its body.

What is made of a head depends on its bytes alone, so it is kept by them. A head with an id of its own never comes again
and is not kept.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

_MOST = 256
_LONGEST = 2048
"""Only so many heads are kept, and none with more bytes."""

_END = b"\r\n\r\n"
_UNIQUE = (b"\r\nx-request-id:", b"\r\ntraceparent:")


class Head(Protocol):
    """What was made of a head."""

    @property
    def length(self) -> int:
        """How many bytes the body of the request has."""


H = TypeVar("H", bound=Head)


class Heads(Generic[H]):
    """Those that are known. They belong on the event loop."""

    def __init__(self) -> None:
        self._known: dict[bytes, H] = {}

    def of(self, data: bytes) -> H | None:
        """What is known of one whole request by its head; None where it is something else, or not known."""
        end = data.find(_END) + len(_END)
        head = self._known.get(data[:end])
        return head if head is not None and len(data) - end == head.length else None

    def learn(self, data: bytes, head: H) -> None:
        """Keep what was made of a request's head, where the request is all that there is."""
        end = data.find(_END) + len(_END)
        if len(data) - end != head.length or end > _LONGEST:
            return
        key = data[:end]
        lines = key.lower()
        if any(name in lines for name in _UNIQUE):
            return
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = head
