"""A day of traffic in a minute: the service in this process, whose clock is moved from one request to the next.

Tickets of the demo's generator come all day. From `FOREIGN_FROM` hours on, a share of the texts are sentences of this
repository's documentation instead, which no student or teacher of a support desk has seen. Everything is measured as in
production: only `time.time` is moved, so that the last request is answered now.
"""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

import httpx

from distill.data.support_desk import tickets
from service.app import create_app
from service.server.lifecycle import Server, bind
from service.settings import Settings
from service.shadow.settings import ShadowSettings

ROOT = Path(__file__).parents[1]
REQUESTS = 6000
HOURS = 24.0
FOREIGN_FROM = 21.0
CLIENTS = 8
RATE = 0.6
SEED = 11

Look = Callable[[httpx.AsyncClient], Awaitable[None]]


@asynccontextmanager
async def day(
    bundle: Path, teacher: Path, foreign: float, look: Look | None = None, requests: int = REQUESTS
) -> AsyncIterator[str]:
    """Serve `bundle`, shadowed to the bundle `teacher`, and yield its address after a day of traffic.

    `foreign` is the share, in [0, 1], of texts in the last hours that are no tickets. `look` is called before each
    request, at its time, with a client of the service.
    """
    with tempfile.TemporaryDirectory() as folder, mock.patch("time.time", _Clock()) as clock:
        shadow = ShadowSettings(
            enabled=True,
            rate=RATE,
            path=Path(folder) / "shadow.sqlite",
            teacher={"kind": "bundle", "path": str(teacher), "usd_per_hour": 0.1},
        )
        settings = Settings(bundle=bundle, host="127.0.0.1", drain_seconds=0, idle_grace_seconds=0, shadow=shadow)
        server, listener = Server(create_app(settings), settings), bind("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        running = asyncio.create_task(server.serve([listener]))
        while not server.started:
            if running.done():
                raise SystemExit("the service did not start; its log says why")
            await asyncio.sleep(0.05)
        async with httpx.AsyncClient(base_url=url, timeout=60.0) as client:
            await _send(client, foreign, clock, look, requests)
            while (gap := (await client.get("/gap")).json())["queue"]["waiting"] + gap["queue"]["in_flight"]:
                await asyncio.sleep(0.2)
        yield url
        server.should_exit = True
        await running


async def _send(client: httpx.AsyncClient, foreign: float, clock: _Clock, look: Look | None, requests: int) -> None:
    """Send the texts of a day; `clock.offset` is the time of the next, in seconds from now."""
    texts = enumerate(_texts(foreign, requests))
    moving = asyncio.Lock()

    async def work() -> None:
        for number, text in texts:
            async with moving:  # or the clock would go on during a look
                clock.offset = -3600 * HOURS * (1 - (number + 1) / requests)
                if look is not None:
                    await look(client)
            (await client.post("/classify", json={"text": text})).raise_for_status()

    await asyncio.gather(*(work() for _ in range(CLIENTS)))


def _texts(foreign: float, requests: int) -> Iterator[str]:
    chance = random.Random(SEED)
    sentences = _sentences()
    for number, ticket in enumerate(tickets.generate(requests, SEED)):
        late = number >= requests * FOREIGN_FROM / HOURS
        yield chance.choice(sentences) if late and chance.random() < foreign else ticket.text


def _sentences() -> list[str]:
    """Return the sentences of the documentation, without tables and code."""
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        prose = " ".join(line for line in text.splitlines() if line and line[0] not in "|#<")
        found += [sentence for sentence in re.split(r"(?<=[.:]) ", prose) if 40 < len(sentence) < 200]
    return found


class _Clock:
    """`time.time`, moved by `offset` seconds; at first a day back."""

    def __init__(self) -> None:
        self._time = time.time
        self.offset = -3600 * HOURS

    def __call__(self) -> float:
        return self._time() + self.offset
