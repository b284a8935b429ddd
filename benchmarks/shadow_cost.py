"""Measure the CPU time that the live gap takes from the event loop, per request.

    python benchmarks/shadow_cost.py BUNDLE [--teacher BUNDLE] [--rates 0.02,0.1] [--requests 6000] [--rounds 5]

In a load test the cost drowns in the noise between runs, so it is counted here by the clock of the event loop's thread,
which stands still while other threads and processes run. As in the service, the answers of 32 requests are counted
together, after runs of the graph that have taken the processor's caches. `observe` is what the shadow does with an
answer: it counts for input drift, tosses the coin and queues a sampled text. What the loop does later, to write rows,
ask the teacher and compare, is stated for each comparison. A teacher that is a bundle runs in a thread of its own, as
does the outbox; they are not in it. At a rate of 0 the shadow is off, and answers are counted for input drift alone.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry

from export.bundle.classifier import Classifier
from export.bundle.format import Bundle
from export.bundle.reference import Reference
from service.shadow.pipeline import ShadowPipeline
from service.shadow.settings import ShadowSettings
from service.telemetry.logging import configure_logging

BATCH = 32  # see service.telemetry.deferred
RUNS = 4  # of the graph before each batch
PAUSE_SECONDS = 0.002


class Measured(NamedTuple):
    """CPU time of the event loop in µs: of all calls of `observe`, and of all else but these and the graph's runs."""

    observed: float
    later: float
    compared: float


async def measure(bundle: Bundle, teacher: Path, rate: float, requests: int, folder: Path) -> Measured:
    """Have a pipeline observe so many answers."""
    classifier = Classifier.load(bundle, threads=1)
    texts = [row.text for row in bundle.golden()]
    predictions = [classifier.classify(text) for text in texts]
    settings = ShadowSettings(
        enabled=rate > 0,
        teacher={"kind": "bundle", "path": str(teacher.resolve())},
        rate=rate or 0.02,
        path=folder / "outbox.sqlite",
        anchors_per_day=0,
    )
    pipeline = ShadowPipeline(settings, bundle, Reference.open(bundle), CollectorRegistry())
    await pipeline.start()
    observed = later = 0
    for batch in range(requests // BATCH):
        places = [(batch * BATCH + at) % len(texts) for at in range(BATCH)]
        for place in places[:RUNS]:
            classifier.classify(texts[place])
        began = time.thread_time_ns()
        for place in places:
            pipeline.observe(texts[place], predictions[place])
        counted = time.thread_time_ns()
        await asyncio.sleep(PAUSE_SECONDS)  # while other threads work
        observed += counted - began
        later += time.thread_time_ns() - counted
    compared = pipeline.gap()["outcomes"]["completed"]
    await pipeline.stop()
    return Measured(observed / 1000, later / 1000, compared)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--teacher", type=Path, help="a bundle with the same labels (default: the bundle itself)")
    parser.add_argument("--rates", default="0.02,0.1", help="shares of the answers that are sampled, beside none")
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=5, help="of which the medians count")
    given = parser.parse_args()
    configure_logging("ERROR")
    bundle = Bundle.open(given.bundle)
    rates = [float(rate) for rate in given.rates.split(",")]
    requests = given.requests // BATCH * BATCH
    found: dict[float, list[Measured]] = {rate: [] for rate in (0.0, *rates)}
    for _ in range(given.rounds):
        for rate, rounds in found.items():
            with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
                work = measure(bundle, given.teacher or given.bundle, rate, requests, Path(folder))
                rounds.append(runner.run(work))
    idle = np.median([one.later for one in found[0.0]])
    print("| sampled | observe: µs a request | lowest and highest of the rounds | later: µs a comparison |")
    print("|---|---|---|---|")
    for rate, rounds in found.items():
        each = [one.observed / requests for one in rounds]
        later = [(one.later - idle) / one.compared for one in rounds if one.compared]
        said = f"{np.median(later):.0f}" if later else "–"
        print(f"| {rate:.0%} | {np.median(each):.1f} | {min(each):.1f} to {max(each):.1f} | {said} |")


if __name__ == "__main__":
    main()
