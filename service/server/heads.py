"""Heads of requests that were read before: a client sends the same bytes again, but for the length of its body.

What is made of a head depends on its bytes alone, so it is kept by them, the number in `Content-Length` left out. A
head with an id of its own never comes again and is not kept.
"""

from __future__ import annotations

from typing import Generic, TypeVar

H = TypeVar("H")

_MOST = 256
_LONGEST = 2048
"""Only so many heads are kept, and none with more bytes."""

_MOST_DIGITS = 9
_END = b"\r\n\r\n"
_LENGTH = b"ength: "
_UNIQUE = (b"\r\nx-request-id:", b"\r\ntraceparent:")


class Heads(Generic[H]):
    """What was made of heads, for bodies of at most `most_bytes`. They belong on the event loop."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._known: dict[bytes, H] = {}

    def of(self, data: bytes) -> tuple[H, bytes] | None:
        """What is known of one whole request by its head, and its body; None where it is not that, or not known."""
        key, digits, body = _parts(data)
        head = self._known.get(key)
        return (head, body) if head is not None and self._whole(digits, body) else None

    def learn(self, data: bytes, head: H) -> None:
        """Keep what was made of a request's head, where the request is all that there is."""
        key, digits, body = _parts(data)
        lines = key.lower()
        at = lines.find(_LENGTH) + len(_LENGTH)
        if not self._whole(digits, body) or len(key) > _LONGEST or not lines[:at].endswith(b"\r\ncontent-length: "):
            return
        if any(name in lines for name in _UNIQUE):
            return
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = head

    def _whole(self, digits: bytes, body: bytes) -> bool:
        """Whether the body is as long as its head says, and no longer than it may be."""
        return (
            len(body) <= self._most_bytes
            and len(digits) <= _MOST_DIGITS
            and digits.isdigit()
            and int(digits) == len(body)
        )


def _parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A request's head without the number after the first `ength: `, that number, and its body."""
    end = data.find(_END) + len(_END)
    at = data.find(_LENGTH, 0, end) + len(_LENGTH)
    stop = data.find(b"\r\n", at, end)
    return data[:at] + data[stop:end], data[at:stop], data[end:]
