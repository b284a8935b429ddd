"""Messages between the workers of a Ray cluster and the driver, through an actor, since Ray cannot call the driver.

Messages sent in the same step of the event loop travel together.
"""

from __future__ import annotations

import asyncio
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any


class Broker:
    """The actor that holds the boxes. A sender does not wait for the collector; each box has one collector."""

    def __init__(self) -> None:
        self._boxes: defaultdict[str, asyncio.Queue[bytes]] = defaultdict(asyncio.Queue)

    async def send(self, box: str, packet: bytes) -> None:
        """Put a packet into a box."""
        self._boxes[box].put_nowait(packet)

    async def collect(self, box: str) -> list[bytes]:
        """Wait until a box has a packet, then empty it and return its packets in the order of sending."""
        queue = self._boxes[box]
        packets = [await queue.get()]
        while not queue.empty():
            packets.append(queue.get_nowait())
        return packets


class Mailbox:
    """Sends messages to boxes, and receives those in its own `box`. `broker` is the actor's handle."""

    def __init__(self, broker: Any, box: str) -> None:
        self._broker = broker
        self.box = box
        self._outgoing: defaultdict[str, list[Any]] = defaultdict(list)

    def send(self, box: str, message: Any) -> None:
        """Send a message, which must be picklable, at the next step of the event loop and in order."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing[box].append(message)

    async def listen(self, handle: Callable[[Any], None]) -> None:
        """Call `handle` with every message received, for ever. Raises Ray's error when the actor has ended."""
        while True:
            for packet in await self._broker.collect.remote(self.box):
                for message in pickle.loads(packet):
                    handle(message)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, defaultdict(list)
        for box, messages in outgoing.items():
            self._broker.send.remote(box, pickle.dumps(messages))
