"""How many cores and how much memory a student needs, and what a million requests cost at a cloud's list prices.

    python benchmarks/sizing.py RUN/bundles/* --usd-per-core-hour 0.04 --usd-per-gib-hour 0.0045

Our server runs on one core and gets a load from another, as in serving.py: a closed loop of 64 clients for what a core
can do at most, then Poisson arrivals at `--utilisation` of that for latency, which is where an autoscaler should keep
pods. Memory is that of the process under load. Prices are given, never known: look them up for your region. Measure on
the kind of machine that will serve, while it does nothing else; the teacher's cost is not in it (`GET /gap` says it).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from serving_tools.conditions import Conditions
from serving_tools.contenders import REFLUX
from serving_tools.process import ServerError
from serving_tools.running import running

from export.bundle.format import Bundle

CLIENTS = 64
HOUR = 3600
GIB_STEP = 0.25
"""Memory is requested in steps of so many GiB, and half as much again as was measured."""


@dataclass(frozen=True)
class Size:
    """What one core does: `most` and `usual` requests per second, the p99 in ms at `usual`, and memory in MB."""

    name: str
    most: float
    usual: float
    p99: float
    megabytes: float

    @property
    def gib(self) -> float:
        """Return the memory to request for a pod."""
        return math.ceil(1.5 * self.megabytes * 1e6 / 2**30 / GIB_STEP) * GIB_STEP

    def usd_per_million(self, usd_per_core_hour: float, usd_per_gib_hour: float) -> float:
        """Return the cost of a million requests at the usual rate, with pods of one core."""
        hours = 1e6 / self.usual / HOUR
        return hours * (usd_per_core_hour + self.gib * usd_per_gib_hour)


def measure(path: Path, given: argparse.Namespace, logs: Path) -> Size:
    """Measure the server with the bundle at `path`. Raises ServerError."""
    bundle = Bundle.open(path)
    conditions = Conditions(
        bundle=path.resolve(),
        portable=path.resolve(),
        student=None,
        texts=[row.text for row in bundle.golden() if row.text],
        labels=[],
        classes=bundle.manifest.labels,
        environments=logs,
        logs=logs,
        server_core=given.server_core,
        load_core=given.load_core,
        rounds=given.rounds,
        seconds=given.seconds,
        warm_up=0.5,
        requests=0,
        seed=0,
    )
    with running(REFLUX, conditions) as one:
        most = median(one.load(clients=CLIENTS).throughput for _ in range(given.rounds))
        usual = given.utilisation * most
        p99 = median(one.load(rate=usual, seed=seed).latency.p99 for seed in range(given.rounds))
        return Size(f"{bundle.manifest.family} ({bundle.manifest.name})", most, usual, p99, one.memory().megabytes)


def table(sizes: list[Size], given: argparse.Namespace) -> str:
    """Return the sizes as Markdown."""
    share = f"{100 * given.utilisation:.0f} %"
    lines = [
        f"| student | requests/s per core, at most | at {share} | p99 at {share}, ms | memory, MB | to request, GiB "
        "| USD per million requests |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in sizes:
        usd = size.usd_per_million(given.usd_per_core_hour, given.usd_per_gib_hour)
        lines.append(
            f"| {size.name} | {size.most:,.0f} | {size.usual:,.0f} | {size.p99:.1f} | {size.megabytes:.0f} "
            f"| {size.gib:g} | {usd:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure every bundle, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", help="folders of bundles")
    parser.add_argument("--usd-per-core-hour", type=float, required=True, help="list price of a core for an hour")
    parser.add_argument("--usd-per-gib-hour", type=float, default=0.0, help="and of a GiB of memory (default 0)")
    parser.add_argument("--utilisation", type=float, default=0.65, help="share of the capacity to use (default 0.65)")
    parser.add_argument("--rounds", type=int, default=5, help="loads of each kind; medians count (default 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one load (default 3)")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    given = parser.parse_args()
    if not 0 < given.utilisation < 1:
        parser.error("--utilisation: expected a share between 0 and 1")
    os.sched_setaffinity(0, {given.load_core})
    with TemporaryDirectory(prefix="sizing-") as logs:
        try:
            sizes = [measure(path, given, Path(logs)) for path in given.bundles]
        except ServerError as error:
            sys.exit(f"sizing: {error}")
    print(table(sizes, given))


if __name__ == "__main__":
    main()
