"""How long `GET /gap` and `GET /metrics` keep the event loop from answering requests, at once and in parts.

`python benchmarks/event_loop.py BUNDLE [--labels 77]` fills a history of 8 days, and prints the longest time between
two turns of the event loop: the median of alternating rounds, with both ways in one process, and their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry

from export.bundle.format import Bundle
from export.bundle.reference import Reference
from service.monitor.cells import SLOT_SECONDS
from service.process.parts import Parts, interleaved, whole
from service.shadow.pipeline import ShadowPipeline
from service.shadow.settings import ShadowSettings
from service.shadow.slots import DAY, Key, slot_of
from service.telemetry.metrics import render


def lived(
    bundle: Bundle, registry: CollectorRegistry, labels: int, *, days: int = 8, requests: int = 1000
) -> ShadowPipeline:
    """Return a pipeline that has answered `requests` in each slot of `days`, and compared a sample of them."""
    names = tuple(f"label {position}" for position in range(labels))
    reference = Reference.open(bundle)
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, labels=names))
    pipeline = ShadowPipeline(ShadowSettings(), bundle, reference, registry)
    history, propensity = pipeline._ledger.history, pipeline._sampler.propensity
    generator = np.random.default_rng(0)
    for moment in time.time() - SLOT_SECONDS * np.arange(days * DAY // SLOT_SECONDS)[::-1]:
        history.turn(moment)
        for band, count in enumerate(generator.multinomial(requests, reference.share / reference.share.sum())):
            key = Key(slot_of(moment), band, propensity[band])
            history.add(key, "requests", float(count))
            history.add(key, "sampled", float(sampled := generator.binomial(count, propensity[band])))
            wrong = generator.binomial(sampled, 0.06)
            history.add(key, "agreed", float(sampled - wrong))
            history.add(key, "disagreed", float(wrong))
            for at, student in enumerate(generator.integers(labels, size=sampled).tolist()):
                history.add_pair(key, student, (student + (at < wrong)) % labels)
    return pipeline


async def longest(work: Callable[[], object]) -> float:
    """Return the longest time in ms that the event loop did not turn during `work`, which may be a coroutine."""
    gaps: list[float] = []
    done = False

    async def beat() -> None:
        last = time.perf_counter()
        while not done:
            await asyncio.sleep(0)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    made = work()
    if asyncio.iscoroutine(made):
        await made
    await asyncio.sleep(0)
    done = True
    await beating
    return 1000 * max(gaps)


async def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--labels", type=int, default=77)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    registry = CollectorRegistry()
    pipeline = lived(Bundle.open(options.bundle), registry, options.labels)
    history = pipeline._ledger.history
    print(f"{options.labels} labels, {len(history.cells())} cells, {len(history.pairs)} pairs of classes")

    def page() -> Parts[bytes]:
        yield from pipeline.prepare_metrics()
        return (yield from render(CollectorRegistry(), {"v": [registry]}))

    body = pipeline.gap()
    for name, parts in (("/gap", pipeline.gap_parts), ("/metrics", page)):
        rounds = [
            (await longest(lambda parts=parts: whole(parts())), await longest(lambda parts=parts: interleaved(parts())))
            for _ in range(options.rounds)
        ]
        at_once, in_parts = np.median(rounds, axis=0)
        print(f"{name}: at once {at_once:.1f} ms, in parts {in_parts:.1f} ms, ratio {in_parts / at_once:.2f}")
    encoding = [await longest(lambda: JSONResponse(jsonable_encoder(body))) for _ in range(options.rounds)]
    print(f"JSON of /gap: {np.median(encoding):.1f} ms")


if __name__ == "__main__":
    asyncio.run(main())
