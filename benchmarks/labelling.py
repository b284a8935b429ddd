"""Compare labelling with the speed that the server allows, and test that its memory does not grow with the texts.

A server in one process implements OpenAI's chat API with a fixed latency and a fixed number of slots. Labelling runs in
another process, through teacher, account and store as in `reflux label`. The ideal is texts x latency / slots. Memory
is the growth of the peak resident set after the first texts, for a pool and for one four times as large.

    python benchmarks/labelling.py [--texts 10000] [--latency 0.2] [--slots 64] [--profile FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import math
import multiprocessing
import re
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from distill import teachers
from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.labelling.label import ask_missing

LABELS = tuple(f"category {number}" for number in range(15))
WORDS = "my order of last week has not come and nobody says when it will while the money is gone from here".split()
MOST_RATIO = 1.15
MOST_GROWTH_MIB = 8.0
FIRST = 1000  # texts to label before memory is measured: everything is loaded then

processes = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds and CPU seconds of labelling, and the peak memory in MiB after the first texts and at the end."""

    seconds: float
    processor: float
    first_mib: float
    last_mib: float


class Chat(asyncio.Protocol):
    """One connection to OpenAI's chat API, as cheap as possible, to leave the CPUs to labelling."""

    def __init__(self, reply: bytes, latency: float, free: asyncio.Semaphore) -> None:
        self.reply, self.latency, self.free = reply, latency, free
        self.heard = b""
        self.calls: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a call once it is complete; a client sends one at a time."""
        self.heard += data
        head, found, body = self.heard.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if found and length and len(body) >= int(length[1]):
            self.heard = b""
            call = asyncio.ensure_future(self.answer())
            self.calls.add(call)
            call.add_done_callback(self.calls.discard)

    async def answer(self) -> None:
        """Hold a slot for the latency, then answer."""
        async with self.free:
            await asyncio.sleep(self.latency)
            self.transport.write(self.reply)


def serve(listener: socket.socket, latency: float, slots: int) -> None:
    """Answer calls until the process is killed."""

    async def run() -> None:
        free = asyncio.Semaphore(slots)
        server = await asyncio.get_running_loop().create_server(lambda: Chat(reply(), latency, free), sock=listener)
        await server.serve_forever()

    asyncio.run(run())


def reply() -> bytes:
    """Return a response with the twenty likeliest tokens."""
    names = [chr(ord("A") + index) for index in range(20)]
    logprobs = [math.log(0.9 / 2 ** (rank + 1)) for rank in range(len(names))]
    top = [{"token": name, "logprob": p, "bytes": [65]} for name, p in zip(names, logprobs, strict=True)]
    completion = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A"},
                "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 300, "completion_tokens": 1, "total_tokens": 301},
    }
    content = json.dumps(completion).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def texts(count: int) -> Iterator[str]:
    """Yield distinct texts with the lengths of support tickets."""
    for number in range(count):
        yield f"ticket {number}: {' '.join(WORDS[(number + word) % len(WORDS)] for word in range(12 + number % 40))}"


async def label(base_url: str, slots: int, count: int, folder: Path) -> Measured:
    """Label `count` texts."""
    config = {
        "kind": "openai",
        "base_url": base_url,
        "model": "m",
        "usd_per_million": {"input": 0.4, "output": 1.6},
        "concurrency": slots,
    }
    with AnswerStore(folder / "answers.sqlite") as store:
        teacher = teachers.create(config, LABELS, StoredAccount(store, max_usd=1000.0))
        await ask_missing(teacher, texts(min(FIRST, count)), store, repeat=1)
        first, start, busy = peak_mib(), time.perf_counter(), time.process_time()
        await ask_missing(teacher, texts(count), store)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        await teacher.aclose()
    return Measured(seconds, busy, first, peak_mib())


def peak_mib() -> float:
    """Return the peak resident set of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(told: Connection, base_url: str, slots: int, count: int, profile: str | None) -> None:
    """Label in this process, and send the measurement to `told`."""
    with tempfile.TemporaryDirectory() as folder, cProfile.Profile() if profile else nullcontext() as profiler:
        told.send(asyncio.run(label(base_url, slots, count, Path(folder))))
    if profiler and profile:
        profiler.dump_stats(profile)


def measured(latency: float, slots: int, count: int, profile: str | None = None) -> Measured:
    """Label `count` texts in one process against a server in another."""
    with server(latency, slots) as base_url:
        hears, tells = processes.Pipe(duplex=False)
        process = processes.Process(target=measure, args=(tells, base_url, slots, count, profile))
        process.start()
        tells.close()
        try:
            result: Measured = hears.recv()
        finally:
            process.join()
        return result


@contextmanager
def server(latency: float, slots: int) -> Iterator[str]:
    """Start a server, yield its base URL, and kill it at the end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        process = processes.Process(target=serve, args=(listener, latency, slots), daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            process.kill()
            process.join()


def main() -> None:
    """Measure and print. The exit status is 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=10_000, help="texts to label (default 10000)")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds that the server takes (default 0.2)")
    parser.add_argument("--slots", type=int, default=64, help="calls that the server takes at once (default 64)")
    parser.add_argument("--profile", help="file for cProfile's statistics of the labelling process")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory measurement out")
    given = parser.parse_args()
    ideal = given.texts * given.latency / given.slots
    run = measured(given.latency, given.slots, given.texts, given.profile)
    ratio = run.seconds / ideal
    print(f"{given.texts:,} texts, {given.latency * 1000:.0f} ms, {given.slots} slots")
    print(f"ideal {ideal:.1f} s, measured {run.seconds:.1f} s, ratio {ratio:.3f} (at most {MOST_RATIO})")
    print(f"labelling kept a processor busy for {1000 * run.processor / given.texts:.2f} ms a text")
    failed = ratio > MOST_RATIO
    if not given.no_memory:
        grown = {}
        for count in (given.texts, 4 * given.texts):
            one = measured(0.0, given.slots, count)
            grown[count] = one.last_mib - one.first_mib
            print(f"{count:,} texts: peak memory {one.last_mib:.0f} MiB, grown by {grown[count]:.1f} MiB")
        difference = grown[4 * given.texts] - grown[given.texts]
        print(f"four times the texts take {difference:.1f} MiB more (at most {MOST_GROWTH_MIB})")
        failed |= difference > MOST_GROWTH_MIB
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
