"""Measure what hostile or broken clients cost the others: the latency of `/livez`, and memory.

`python -m service` runs in a process of its own. First, on each route that takes a list, `--clients` clients post
bodies of a mebibyte of wrong items for `--seconds`, one kind after another, and every answer must be a 4xx. Then
`--unfinished` clients each send a mebibyte less one byte and stop. Meanwhile `/livez` is polled. Prints its longest
time and the growth of the resident set.

    python benchmarks/hostile.py BUNDLE [--clients 4] [--seconds 1] [--unfinished 740]

The load comes from this process, so with few cores the times include its own work; `idle` has no load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from serving_tools.process import Server, free_port

ROOT = Path(__file__).parents[1]
MEBIBYTE = 1 << 20
PAUSE = 0.005
V2 = '{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": %s}]}'


def routes(name: str) -> dict[str, str]:
    """Return a body template for each route that takes a list; `name` is the bundle's."""
    return {
        "/classify": '{"texts": %s}',
        "/classify (infinity)": '{"input": %s}',
        "/v1/classify": '{"input": %s}',
        "/": '{"inputs": %s, "parameters": {}}',
        "/predict": '{"inputs": %s}',
        "/invocations": '{"inputs": %s}',
        "/vertex": '{"instances": %s}',
        f"/v1/models/{name}:predict": '{"instances": %s}',
        f"/v2/models/{name}/infer": V2,
        "/v1/decisions": '{"input": "a", "questions": %s}',
        "/v1/decisions (choices)": '{"input": "a", "questions": [{"type": "choice", "choices": %s}]}',
        "/v1/systemone": '{"state": "a", "questions": %s}',
        "/v1/systemone (criteria)": '{"state": "a", "questions": {"q": {"type": "choice", "criteria": %s}}}',
    }


def bodies(template: str) -> dict[str, bytes]:
    """Return a body of nearly a mebibyte for each kind of wrong items."""
    size = MEBIBYTE - len(template) - 100
    keys = ",".join(f'"{at}":1' for at in range(size // 10))
    lists = {
        kind: f"[{','.join([item] * (size // (len(item) + 1)))}]"
        for kind, item in (("numbers", "1"), ("blank", '""'), ("texts", '"a"'), ("lists", "[]"), ("long", "1" * 300))
    }
    values = {**lists, "keys": f"{{{keys}}}", "deep": "[" * size, "escapes": '"' + '\\"' * (size // 2) + '"'}
    return {kind: (template % value).encode() for kind, value in values.items()}


def post(path: str, body: bytes) -> bytes:
    """Return a complete request."""
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> int:
    """Send a request, read the answer and return its status."""
    writer.write(data)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
    return int(head.split()[1])


async def watched(port: int, work: Callable[[], Awaitable[None]]) -> float:
    """Poll `/livez` until `work` ends; return its longest time in ms."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    greatest, task = 0.0, asyncio.ensure_future(work())
    while not task.done():
        start = time.perf_counter()
        if await ask(reader, writer, b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n") != 200:
            raise SystemExit("/livez fails")
        greatest = max(greatest, time.perf_counter() - start)
        await asyncio.sleep(PAUSE)
    writer.close()
    await task
    return 1000 * greatest


async def measure(server: Server, port: int, name: str, given: argparse.Namespace) -> None:
    """Print a line per route, and one for unfinished requests."""

    async def client(path: str, kinds: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        end = time.perf_counter() + given.seconds
        while time.perf_counter() < end:
            for body in kinds:
                status = await ask(reader, writer, body)
                if not 400 <= status < 500:
                    raise SystemExit(f"{path}: {status} for {body[:200]!r}")
        writer.close()

    async def unfinished() -> None:
        data = post("/classify", b" " * MEBIBYTE)[:-1]
        several = []
        for _ in range(given.unfinished):
            several.append((await asyncio.open_connection("127.0.0.1", port))[1])
            several[-1].write(data)
            await asyncio.sleep(0)
        await asyncio.sleep(given.seconds)
        for writer in several:
            writer.transport.abort()

    start = server.memory().megabytes
    print(f"{'':32}  greatest /livez, ms    MB more")
    print(f"{'idle':32}  {await watched(port, lambda: asyncio.sleep(given.seconds)):19.1f}")
    for label, template in routes(name).items():
        path = label.split()[0]
        kinds = [post(path, body) for body in bodies(template).values()]

        async def work(path: str = path, kinds: list[bytes] = kinds) -> None:
            await asyncio.gather(*(client(path, kinds) for _ in range(given.clients)))

        print(f"{label:32}  {await watched(port, work):19.1f}  {server.memory().megabytes - start:9.0f}", flush=True)
    slowest = await watched(port, unfinished)
    print(f"{f'{given.unfinished} unfinished':32}  {slowest:19.1f}  {server.memory().megabytes - start:9.0f}")


def main() -> None:
    """Start the service and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--unfinished", type=int, default=740)
    given = parser.parse_args()
    manifest = json.loads((given.bundle / "manifest.json").read_text())
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "REFLUX_BUNDLE": str(given.bundle.resolve()),
            "REFLUX_HOST": "127.0.0.1",
            "REFLUX_PORT": str(port),
            "REFLUX_DRAIN_SECONDS": "0",
            "REFLUX_SHADOW__PATH": f"{folder}/shadow.sqlite",
        }
        command, cores = [sys.executable, "-m", "service"], os.sched_getaffinity(0)
        log = Path(folder) / "log"
        with Server(command, port=port, cores=cores, log=log, environment=environment, folder=ROOT) as server:
            server.wait("/classify", json.dumps({"text": "a"}))
            asyncio.run(measure(server, port, manifest["name"], given))


if __name__ == "__main__":
    main()
