"""Run a mixed load with reloads for twenty minutes: no answer may be lost or wrong, and nothing may leak.

`python -m service` runs in a process of its own. Clients send single texts, lists, long texts, short deadlines, and
bodies that are malformed, too large or of another type; some disconnect before, during or after their request. Every
`--reload` seconds one of two bundles replaces the other, and SIGHUP makes the server reload it.

Every answer is checked: its status, its request id, and each label against the answers of that version's bundle in this
process. The server's resident set, threads and file descriptors are read once a second. Memory must not grow: a line is
fitted to the second half, to the means of periods of two reloads each (values within a period are correlated), and the
95 % interval of its slope must reach below 1 MiB in 10 minutes. The numbers of threads and descriptors at the end must
equal those after the warm-up, both counted without clients.

    python benchmarks/soak.py [--minutes 20] [--bundles A B] [--clients 8] [--reload 20]

By default it serves two tiny bundles of the tests, with a third one as the shadow's teacher.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from export.bundle.classifier import Classifier
from export.bundle.format import Bundle, write_bundle

sys.path.insert(0, str(Path(__file__).parents[1]))  # where `tests` are

from tests.support.connection import Connection
from tests.support.service_process import ServiceProcess, service_process
from tests.support.tiny_bundle import build_bundle

MOST_GROWTH = 1.0
"""MiB in 10 minutes."""

PATIENCE = 60.0  # seconds; a timeout for what takes milliseconds unless something is wrong
WARM_RELOADS = 4
TIE = 2e-3  # labels this near to the best are right too: other texts in a run move probabilities
BODY_BYTES = 64 * 1024
MOST_TEXTS = 16


class WrongError(Exception):
    """An answer is wrong."""


@dataclass(frozen=True, slots=True)
class Bundles:
    """The two bundles that replace each other at `path`, the texts, and the right labels by version and text."""

    path: Path
    pair: tuple[Bundle, Bundle]
    short: list[str]
    long: list[str]
    right: dict[tuple[str, str], frozenset[str]]

    @classmethod
    def of(cls, pair: tuple[Bundle, Bundle], path: Path) -> Bundles:
        """Make texts from the golden rows of both bundles, and classify them with both."""
        golden = [row.text for bundle in pair for row in bundle.golden() if row.text.strip()]
        generator = random.Random(0)
        short = [" ".join(generator.choices(golden, k=generator.randint(1, 2))) for _ in range(200)]
        long = [" ".join(generator.choices(golden, k=100))[:20_000] for _ in range(20)]
        right: dict[tuple[str, str], frozenset[str]] = {}
        for bundle in pair:
            classifier, labels = Classifier.load(bundle), bundle.manifest.labels
            for text in [*short, *long]:
                scores = classifier.classify(text).probabilities
                best = np.flatnonzero(scores >= scores.max() - TIE)
                right[bundle.manifest.version, text] = frozenset(labels[index] for index in best)
        return cls(path, pair, short, long, right)

    def publish(self, number: int) -> str:
        """Write one of the two bundles to `path` and return its version."""
        bundle = self.pair[number % 2]
        contents = {name: bundle.path / name for name in bundle.manifest.files}
        return write_bundle(self.path, contents, bundle.manifest).manifest.version


@dataclass(slots=True)
class Load:
    """The clients, the answers they saw, and the faults."""

    bundles: Bundles
    port: int
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    stopping: bool = False

    async def run(self, clients: int, until: Awaitable[object]) -> None:
        """Run `clients` clients until `until` is done, then close their connections."""
        self.stopping = False
        tasks = [asyncio.create_task(self._client(number)) for number in range(clients)]
        try:
            await until
        finally:
            self.stopping = True
            await asyncio.gather(*tasks)

    async def connect(self) -> Connection:
        """Open a connection."""
        return await Connection.open(self.port)

    async def _client(self, seed: int) -> None:
        generator = random.Random(seed)
        names = list(KINDS)
        weights = [KINDS[name][0] for name in names]
        connection = await self.connect()
        while not self.stopping:
            (name,) = generator.choices(names, weights)
            try:
                async with asyncio.timeout(PATIENCE):
                    status = await KINDS[name][1](self, connection, generator)
            except WrongError as error:
                status = "wrong"
                self.faults.append(f"{name}: {error}")
            except (OSError, EOFError, ValueError, KeyError, TimeoutError) as error:
                status = "lost"
                self.faults.append(f"{name}: {error!r}")
                connection.close()
                connection = await self.connect()
            self.seen[name, status] += 1
        connection.close()

    async def ask(self, connection: Connection, texts: list[str], headers: dict[str, str]) -> str:
        """Send texts, check the answer and return its status."""
        request_id = f"{random.getrandbits(64):x}"
        body: dict[str, Any] = {"text": texts[0]} if len(texts) == 1 else {"texts": texts}
        connection.send(json.dumps(body).encode(), headers={"x-request-id": request_id, **headers})
        status, _, answer = await connection.receive()
        told = answer["error"]["request_id"] if status != 200 else answer["request_id"]
        if told != request_id:
            raise WrongError(f"the answer to {told} came for {request_id}")
        if status == 200:
            self._check(texts, answer)
        return str(status)

    def _check(self, texts: list[str], answer: Any) -> None:
        labels = [result["label"] for result in answer["results"]]
        if len(labels) != len(texts):
            raise WrongError(f"{len(labels)} results for {len(texts)} texts")
        for text, label in zip(texts, labels, strict=True):
            right = self.bundles.right[answer["version"], text]
            if label not in right:
                raise WrongError(f"version {answer['version']} says {label}, not {'/'.join(right)}: {text[:60]!r}")


def expect(status: str, *expected: int) -> str:
    """Return `status` if it is expected, else raise WrongError."""
    if status not in {str(one) for one in expected}:
        raise WrongError(f"status {status}, expected {' or '.join(map(str, expected))}")
    return status


async def single(load: Load, connection: Connection, generator: random.Random) -> str:
    """Send one text."""
    return expect(await load.ask(connection, [generator.choice(load.bundles.short)], {}), 200)


async def several(load: Load, connection: Connection, generator: random.Random) -> str:
    """Send a list of texts."""
    texts = generator.choices(load.bundles.short, k=generator.randint(2, MOST_TEXTS))
    return expect(await load.ask(connection, texts, {}), 200)


async def long(load: Load, connection: Connection, generator: random.Random) -> str:
    """Send a text that is longer than the graph reads."""
    return expect(await load.ask(connection, [generator.choice(load.bundles.long)], {}), 200)


async def hurried(load: Load, connection: Connection, generator: random.Random) -> str:
    """Send a deadline of a millisecond; the request is answered, refused or given up."""
    texts = generator.choices(load.bundles.short, k=4)
    return expect(await load.ask(connection, texts, {"x-request-timeout-ms": "1"}), 200, 429, 504)


async def malformed(load: Load, connection: Connection, generator: random.Random) -> str:
    """Send a body that is not JSON, or does not fit the schema."""
    body, status = generator.choice([(b'{"text": "in', 400), (b"\xff\xfe", 400), (b'{"text": 1}', 422), (b"[]", 422)])
    connection.send(body)
    return expect(str((await connection.receive())[0]), status)


async def foreign(load: Load, connection: Connection, generator: random.Random) -> str:
    """Send a body of another content type."""
    connection.send(b"text=invoice", headers={"content-type": "application/x-www-form-urlencoded"})
    return expect(str((await connection.receive())[0]), 415)


async def oversize(load: Load, connection: Connection, generator: random.Random) -> str:
    """Send a body larger than the limit."""
    connection.send(json.dumps({"text": "a" * (BODY_BYTES + generator.randint(0, BODY_BYTES))}).encode())
    return expect(str((await connection.receive())[0]), 413)


async def absent(load: Load, connection: Connection, generator: random.Random) -> str:
    """Connect, and disconnect without a request or in the middle of one."""
    other = await load.connect()
    if generator.random() < 0.5:
        other.send(b'{"text": "in', length=1000)
        await other.writer.drain()
    other.close()
    return "left"


async def deserter(load: Load, connection: Connection, generator: random.Random) -> str:
    """Send a request, and disconnect without waiting for the answer."""
    other = await load.connect()
    other.send(json.dumps({"texts": generator.choices(load.bundles.short, k=MOST_TEXTS)}).encode())
    await other.writer.drain()
    other.close()
    return "left"


Kind = Callable[[Load, Connection, random.Random], Awaitable[str]]
KINDS: dict[str, tuple[int, Kind]] = {
    "single text": (40, single),
    "several texts": (20, several),
    "long text": (8, long),
    "deadline of 1 ms": (10, hurried),
    "malformed body": (6, malformed),
    "other content type": (3, foreign),
    "oversize body": (3, oversize),
    "left before asking": (5, absent),
    "left after asking": (5, deserter),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at a time: resident MiB, threads, open file descriptors."""

    seconds: float
    resident: float
    threads: int
    files: int


@dataclass(slots=True)
class Server:
    """The server's process, and the faults in how it ended."""

    process: ServiceProcess
    faults: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        """The errors that it logged, and those in how it ended."""
        return [*self.process.errors, *self.faults]

    def sample(self) -> Sample:
        """Read the server's resident set, threads and descriptors."""
        of = Path("/proc") / str(self.process.process.pid)
        resident = int((of / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        return Sample(time.monotonic(), resident, len(list((of / "task").iterdir())), len(list((of / "fd").iterdir())))

    async def rest(self, wanted: Sample | None = None) -> Sample:
        """Sample once the threads and files have not changed for some seconds, and equal `wanted` if that is given."""
        samples = [self.sample()]
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            await asyncio.sleep(1)
            samples.append(self.sample())
            last = {(one.threads, one.files) for one in samples[-5:]}
            if len(samples) >= 5 and len(last) == 1 and (not wanted or last == {(wanted.threads, wanted.files)}):
                break
        return samples[-1]


@asynccontextmanager
async def serving(bundles: Bundles, teacher: Path | None, clients: int, folder: Path) -> AsyncIterator[Server]:
    """Start a server of the bundle at `bundles.path`; at the end send SIGTERM and require exit status 0."""
    variables = {
        "REFLUX_BUNDLE": str(bundles.path),
        "REFLUX_WORKERS": "1",  # a measured number may be one or two, which changes the count of threads
        "REFLUX_THREADS": "1",
        "REFLUX_MAX_BODY_BYTES": str(BODY_BYTES),
        "REFLUX_QUEUE_LIMIT": str(max(64, 4 * clients * MOST_TEXTS)),
        "REFLUX_DRAIN_SECONDS": "0",
        "REFLUX_SHADOW__PATH": str(folder / "shadow.sqlite"),
        "REFLUX_SHADOW__ENABLED": "false" if teacher is None else "true",
    }
    if teacher is not None:
        variables["REFLUX_SHADOW__TEACHER"] = json.dumps({"kind": "bundle", "path": str(teacher)})
    async with service_process(**variables) as process:
        server = Server(process)
        if not process.port:
            raise SystemExit("\n".join(server.errors))
        yield server
        process.terminate()
        status = await process.ended()
        if status:
            server.faults.append(f"the server ended with status {status}")


async def reload(load: Load, server: Server, number: int) -> None:
    """Replace the bundle, send SIGHUP, and wait until the server serves the new version."""
    version = load.bundles.publish(number)
    server.process.process.send_signal(signal.SIGHUP)
    connection = await load.connect()
    async with asyncio.timeout(PATIENCE):
        while True:
            connection.send(b"", method="GET", path="/model")
            status, _, manifest = await connection.receive()
            if status == 200 and manifest["version"] == version:
                break
            await asyncio.sleep(0.05)
    connection.close()


async def soak(load: Load, server: Server, seconds: float, every: float, numbers: itertools.count[int]) -> list[Sample]:
    """Reload every `every` seconds for `seconds`; return one sample per second."""
    samples: list[Sample] = []
    began = time.monotonic()
    due = began + every
    while time.monotonic() < began + seconds:
        samples.append(server.sample())
        if time.monotonic() >= due:
            due += every
            await reload(load, server, next(numbers))
        await asyncio.sleep(1)
    return samples


def slope(samples: Sequence[Sample], period: float) -> tuple[float, float]:
    """Return the 95 % interval of the growth of memory over the second half, in MiB per 10 minutes.

    It is infinite with fewer than three periods.
    """
    half = [one for one in samples if one.seconds >= (samples[0].seconds + samples[-1].seconds) / 2]
    blocks: dict[int, list[float]] = {}
    for one in half:
        blocks.setdefault(int((one.seconds - half[0].seconds) / period), []).append(one.resident)
    if len(blocks) < 3:
        return -math.inf, math.inf
    means = [float(np.mean(values)) for values in blocks.values()]
    fit = stats.linregress([block * period / 600 for block in blocks], means)
    margin = float(stats.t.ppf(0.975, len(blocks) - 2)) * fit.stderr
    return fit.slope - margin, fit.slope + margin


def tiny_bundles(folder: Path) -> tuple[Path, Path, Path]:
    """Build two students that disagree, and a teacher."""
    flip = {"refund": "shipping", "late": "technical", "crash": "account"}
    build_bundle(folder / "a")
    build_bundle(folder / "b", flip=flip)
    build_bundle(folder / "teacher", role="teacher", flip={"refund": "shipping"})
    return folder / "a", folder / "b", folder / "teacher"


def report(load: Load, server: Server, samples: list[Sample], before: Sample, after: Sample, period: float) -> bool:
    """Print the results; return whether every check holds."""
    statuses = sorted({status for _, status in load.seen})
    print(f"\n{'':20}" + "".join(f"{status:>9}" for status in statuses))
    for name in KINDS:
        print(f"{name:20}" + "".join(f"{load.seen[name, status] or '':>9}" for status in statuses))
    print(f"\n{'':20}{'minute':>9}{'MiB':>9}{'threads':>9}{'files':>9}")
    for one in samples[:: max(1, len(samples) // 10)]:
        minute = (one.seconds - samples[0].seconds) / 60
        print(f"{'':20}{minute:9.1f}{one.resident:9.1f}{one.threads:9}{one.files:9}")
    low, high = slope(samples, period)
    grown = f"memory grows by {low:.2f} to {high:.2f} MiB in 10 minutes (at least {MOST_GROWTH} fails)"
    if math.isinf(low):
        grown = "memory: the run was too short to tell"
    checks = {
        f"no answer lost or wrong, of {load.seen.total():,}": not load.faults,
        f"no error logged ({len(server.errors)})": not server.errors,
        grown: low < MOST_GROWTH,
        f"threads {before.threads} before, {after.threads} after": before.threads == after.threads,
        f"file descriptors {before.files} before, {after.files} after": before.files == after.files,
    }
    print()
    for name, holds in checks.items():
        print(f"{'ok' if holds else 'FAILED':8}{name}")
    for line in [*load.faults[:10], *server.errors[:10]]:
        print(f"        {line}")
    return all(checks.values())


async def run(given: argparse.Namespace, folder: Path) -> bool:
    """Warm up, soak and report."""
    first, second, teacher = (*given.bundles, None) if given.bundles else tiny_bundles(folder)
    bundles = Bundles.of((Bundle.open(first), Bundle.open(second)), folder / "served")
    bundles.publish(0)
    async with serving(bundles, teacher, given.clients, folder) as server:
        load = Load(bundles, server.process.port)
        numbers = itertools.count(1)
        warm_up = asyncio.create_task(warm(load, server, numbers))
        await load.run(given.clients, warm_up)
        before = await server.rest()
        print(f"warm: {before.resident:.1f} MiB, {before.threads} threads, {before.files} file descriptors", flush=True)
        soaking = asyncio.create_task(soak(load, server, 60 * given.minutes, given.reload, numbers))
        await load.run(given.clients, soaking)
        after = await server.rest(before)
        print(f"{next(numbers) - 1} reloads, {WARM_RELOADS} of them to warm up")
    return report(load, server, soaking.result(), before, after, 2 * given.reload)


async def warm(load: Load, server: Server, numbers: itertools.count[int]) -> None:
    """Warm the server up: each bundle is served twice, under load."""
    for _ in range(WARM_RELOADS):
        await asyncio.sleep(2)
        await reload(load, server, next(numbers))
    await asyncio.sleep(2)


def main() -> None:
    """Soak. The exit status is 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (default 20)")
    parser.add_argument("--bundles", nargs=2, type=Path, help="two bundles with different opinions (default tiny ones)")
    parser.add_argument("--clients", type=int, default=8, help="clients that ask at once (default 8)")
    parser.add_argument("--reload", type=float, default=20.0, help="seconds between two reloads (default 20)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not asyncio.run(run(given, Path(folder))):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
