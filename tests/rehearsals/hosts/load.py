"""Clients of the service: requests at a steady rate, each written down with its answer.

`python -m tests.rehearsals.hosts.load URL PER_SECOND SECONDS FILE [SEED]`, on the clients' host. Requests begin at
their time, however long earlier ones take, and none is sent twice. Each is a line of JSON in FILE, with the fields of
`Answered`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from distill.data.support_desk import tickets

TIMEOUT = 30.0
OK = 200


@dataclass(frozen=True)
class Answered:
    """A request: Unix seconds of its `start` and `end`, its `status`, 0 without one, and what failed.

    `server` is the host that answered, `version` that of its bundle.
    """

    start: float
    end: float
    status: int
    server: str = ""
    version: str = ""
    error: str = ""


def read(file: Path) -> list[Answered]:
    """Return the requests in a file that a finished load wrote."""
    return [Answered(**json.loads(line)) for line in file.read_text().splitlines()]


async def send(url: str, per_second: float, seconds: float, file: Path, seed: int) -> None:
    """Send the requests, and write them down once all have ended."""
    texts = [ticket.text for ticket in tickets.generate(max(round(per_second * seconds), 1), seed)]
    begin = time.monotonic()
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=httpx.Limits(max_connections=None)) as client:

        async def one(number: int, text: str) -> Answered:
            await asyncio.sleep(begin + number / per_second - time.monotonic())
            start = time.time()
            try:
                response = await client.post(f"{url}/classify", json={"text": text})
            except httpx.HTTPError as error:
                return Answered(start, time.time(), 0, error=repr(error))
            server = response.headers.get("x-served-by", "")
            if response.status_code != OK:
                return Answered(start, time.time(), response.status_code, server, error=response.text[:200])
            return Answered(start, time.time(), OK, server, response.json()["version"])

        ended = await asyncio.gather(*(one(number, text) for number, text in enumerate(texts)))
    file.write_text("".join(f"{json.dumps(asdict(request))}\n" for request in ended))


if __name__ == "__main__":
    url, per_second, seconds, file, *seed = sys.argv[1:]
    asyncio.run(send(url, float(per_second), float(seconds), Path(file), int(seed[0]) if seed else 0))
