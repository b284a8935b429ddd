"""Draw the pictures of the dashboards in docs/monitoring.md from a day that was measured.

    reflux demo                               # makes runs/demo
    python benchmarks/dashboards.py runs/demo [--bundle FOLDER] [--output docs/images]

Prometheus and promtool are needed (Debian: `apt-get install prometheus`). The day is that of `day.py`: what the service
says at `/metrics` every four minutes of it is written into a Prometheus with the time at which it was said, and the
dashboards' queries are asked there. Only what the operating system measures does not follow the moved clock: CPU time
looks smaller than it is by as much as the day is shorter, and the start of the process is set to that of the day.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import httpx
from day import HOURS, day

sys.path.insert(0, str(Path(__file__).parents[1]))  # where `k8s` is

from k8s.monitoring.dashboards import DASHBOARDS
from k8s.monitoring.dashboards.draw import Prometheus, draw

EVERY_SECONDS = 240.0
FOREIGN = 0.5
REQUESTS = 1000
WINDOW = "6h"
TARGET = 'instance="10.0.3.7:8080",job="reflux",namespace="desk",pod="reflux-6d5f7c9b8-x2kqp"'
SERIES = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
WAITING = re.compile(r"reflux_shadow_(?:queue_depth|inflight)\{.*\} [1-9]")
STARTED = "process_start_time_seconds"


class Scrapes:
    """What `/metrics` said, as OpenMetrics with its times in a file: the memory of this process is in the pictures."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._begun = self._last = 0.0

    async def look(self, client: httpx.AsyncClient) -> None:
        """Take the metrics if the last are old enough."""
        now = time.time()
        if now - self._last < EVERY_SECONDS:
            return
        self._begun, self._last = self._begun or now, now
        while WAITING.search(page := (await client.get("/metrics")).text):  # the teacher has as long as in a day
            await asyncio.sleep(0.1)
        self._file.writelines(self._timed(page, now))

    def _timed(self, page: str, now: float) -> Iterator[str]:
        for line in page.splitlines():
            if found := SERIES.fullmatch(line):
                name, labels, value = found.groups()
                value = str(self._begun) if name == STARTED else value
                yield f"{name}{{{','.join(filter(None, (labels, TARGET)))}}} {value} {now:.3f}\n"


async def scrape(bundle: Path, teacher: Path, path: Path) -> None:
    """Write to `path` what was scraped in a day of `bundle` whose last hours have foreign texts."""
    with path.open("w") as file:
        scrapes = Scrapes(file)
        async with day(bundle, teacher, FOREIGN, scrapes.look, REQUESTS) as url:
            async with httpx.AsyncClient(base_url=url) as client:
                await scrapes.look(client)
        file.write("# EOF\n")


@contextmanager
def prometheus(folder: Path, scrapes: Path) -> Iterator[httpx.Client]:
    """Start a Prometheus that holds the scrapes of a file, and yield a client of it."""
    making = ("promtool", "tsdb", "create-blocks-from", "openmetrics", scrapes, folder / "data")
    subprocess.run(making, check=True, stdout=subprocess.DEVNULL)
    (folder / "prometheus.yml").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=error",
        ]
    )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=60.0) as client:
            while not _ready(client):
                time.sleep(0.2)
            yield client
    finally:
        process.terminate()
        process.wait()


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of the demo's run")
    parser.add_argument("--bundle", type=Path, help="what is served (default RUN/bundle), such as a cascade")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scrapes = Path(folder) / "scrapes.txt"
        asyncio.run(scrape(given.bundle or given.run / "bundle", given.run / "bundles" / "teacher", scrapes))
        now = time.time()
        with prometheus(Path(folder), scrapes) as client:
            source = Prometheus(client, now - 3600 * HOURS, now, WINDOW)
            for dashboard in DASHBOARDS:
                draw(dashboard, source, given.output / f"dashboard-{dashboard.name}.png")
    print(f"{len(DASHBOARDS)} pictures in {given.output}")


if __name__ == "__main__":
    main()
