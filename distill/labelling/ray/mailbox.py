"""Letters between the workers of a Ray cluster and the driver, which Ray cannot call: boxes in an actor of their own.

What is sent in one go travels together. This file knows nothing of what the letters say.
"""

from __future__ import annotations

import asyncio
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any


class Post:
    """The actor. Who sends to a box does not wait for who collects from it; each box has one collector."""

    def __init__(self) -> None:
        self._boxes: defaultdict[str, asyncio.Queue[bytes]] = defaultdict(asyncio.Queue)

    async def send(self, box: str, packet: bytes) -> None:
        """Put a packet into a box."""
        self._boxes[box].put_nowait(packet)

    async def collect(self, box: str) -> list[bytes]:
        """Every packet of a box, in the order of sending, as soon as there is one."""
        queue = self._boxes[box]
        packets = [await queue.get()]
        while not queue.empty():
            packets.append(queue.get_nowait())
        return packets


class Mailbox:
    """One end of the post, within an event loop: `post` is the handle of the actor, `box` what this end collects."""

    def __init__(self, post: Any, box: str) -> None:
        self._post = post
        self.box = box
        self._outgoing: defaultdict[str, list[Any]] = defaultdict(list)

    def send(self, box: str, letter: Any) -> None:
        """Send what pickle can take, soon, and in this order."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing[box].append(letter)

    async def listen(self, hear: Callable[[Any], None]) -> None:
        """Give every letter that comes to `hear`, for ever. Raises what Ray raises when the actor is no more."""
        while True:
            for packet in await self._post.collect.remote(self.box):
                for letter in pickle.loads(packet):
                    hear(letter)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, defaultdict(list)
        for box, letters in outgoing.items():
            self._post.send.remote(box, pickle.dumps(letters))
