"""Bundles on a GPU and on the CPUs of the same machine: the time of a run by shape, and the service's throughput.

    python benchmarks/gpu.py runs/banking77-fp16/bundle runs/banking77/bundle --devices cuda,cpu

Runs are timed without tokenising; on a CPU they use one thread. The service gets every core but the one that sends the
load, in closed loops of single texts and of lists. Prints two tables, and how much the probabilities of each bundle's
golden texts differ on each device. If a device cannot serve a bundle, the reason is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np
from serving_tools.jobs import begin, finish
from serving_tools.plan import Load, Plan, load_of
from serving_tools.process import Server, ServerError, ask, free_port

from export.bundle.classifier import Classifier, Encoded
from export.bundle.format import Bundle, BundleError
from export.bundle.providers import Device, Kind

_ROWS = (1, 8, 32, 128, 256)
_TOKENS = (16, 64, 256)
_SECONDS = 0.3  # per shape
_SLOW = 0.3  # seconds; after a slower run, larger ones are skipped
_LOADS = ((1, 1), (64, 1), (512, 1), (16, 64))
"""Pairs of clients and texts per request."""

_LOAD_SECONDS = 3.0
_WARM_UP = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """A bundle on a device."""

    bundle: Bundle
    device: Kind

    def __str__(self) -> str:
        """Return the bundle's folder and variant, and the device."""
        return f"{self.bundle.path.name} ({self.bundle.manifest.variant}) | {self.device}"


def main() -> None:
    """Measure and print."""
    given = arguments()
    os.sched_setaffinity(0, given.cores)
    places = [Place(Bundle.open(path), device) for path in given.bundles for device in given.devices]
    print("| bundle | device | rows | tokens | ms | texts/s |\n| --- | --- | --- | --- | --- | --- |")
    notes = [runs(place) for place in places]
    print("\n" + "\n".join(notes))
    print("\n| bundle | device | clients | texts in a request | texts/s | texts in a run | p50 ms | p99 ms | failed |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for place in places:
        try:
            service(place, given.cores, given.load_core)
        except ServerError as error:
            print(f"| {place} | not served: {error} |", flush=True)


def runs(place: Place) -> str:
    """Print the time of a run by shape; return how much the golden texts differ, or why the bundle cannot run."""
    try:
        classifier = Classifier.load(place.bundle, device=Device(place.device))
    except BundleError as error:
        return f"{place}: {error}"
    for tokens in sorted({min(tokens, place.bundle.manifest.max_tokens) for tokens in _TOKENS}):
        for rows in _ROWS:
            seconds = seconds_of(classifier, rows, tokens)
            cells = f"{rows} | {tokens} | {seconds * 1000:.2f} | {rows / seconds:,.0f}"
            print(f"| {place} | {cells} |", flush=True)
            if seconds > _SLOW:
                break
    return f"{place}: {golden(place.bundle, classifier)}"


def seconds_of(classifier: Classifier, rows: int, tokens: int) -> float:
    """Return the median seconds of a run of `rows` texts with `tokens` tokens; every vocabulary has the ids used."""
    random = np.random.default_rng(0)
    batch = [Encoded(random.integers(1000, 2000, tokens).tolist(), False) for _ in range(rows)]
    for _ in range(3):  # the first runs of a new shape are slower
        classifier.run(batch)
    spent: list[float] = []
    while sum(spent) < _SECONDS or len(spent) < 3:
        begun = time.perf_counter()
        classifier.run(batch)
        spent.append(time.perf_counter() - begun)
    return median(spent)


def golden(bundle: Bundle, classifier: Classifier) -> str:
    """Describe how much the golden texts' probabilities and labels differ, run alone and in one batch."""
    recorded = bundle.golden()
    expected = np.array([row.probabilities for row in recorded])
    rows = [classifier.encode(row.text) for row in recorded]
    found = {"alone": [classifier.run([row])[0] for row in rows], "together": classifier.run(rows)}
    told = []
    for how, answers in found.items():
        worst = np.abs(np.stack([answer.probabilities for answer in answers]) - expected).max()
        same = sum(
            bundle.manifest.labels[answer.best] == row.label for answer, row in zip(answers, recorded, strict=True)
        )
        told.append(f"{how} off by {worst:.1e}, {same} of {len(recorded)} labels the same")
    return "golden texts " + "; ".join(told)


def service(place: Place, cores: set[int], load_core: int) -> None:
    """Start the service and print a row per load."""
    texts, port = [row.text for row in place.bundle.golden()], free_port()
    with tempfile.TemporaryDirectory(prefix="gpu-") as work:
        settings = {
            "REFLUX_BUNDLE": str(place.bundle.path.resolve()),
            "REFLUX_DEVICE": place.device,
            "REFLUX_QUEUE_LIMIT": "8192",
            "REFLUX_HOST": "127.0.0.1",
            "REFLUX_PORT": str(port),
        }
        log, command = Path(work) / "log", [sys.executable, "-m", "service"]
        with Server(command, port=port, cores=cores, log=log, environment=settings) as server:
            ready = server.wait("/classify", json.dumps({"text": texts[0]}))
            for clients, size in _LOADS:
                before = counted(port)
                load = sent(port, texts, clients, size, load_core)
                runs, answered = (now - then for now, then in zip(counted(port), before, strict=True))
                cells = [
                    f"{clients} | {size} | {load.throughput * size:,.0f} | {answered / runs:.1f}",
                    f"{load.latency.p50:.2f} | {load.latency.p99:.2f} | {load.failed}",
                ]
                print(f"| {place} | {' | '.join(cells)} |", flush=True)
            print(f"ready after {ready:.1f} s; {' '.join(measured(log))}", file=sys.stderr, flush=True)


def sent(port: int, texts: Sequence[str], clients: int, size: int, core: int) -> Load:
    """Run a closed loop of `clients` with `size` texts per request."""
    plan = Plan(port, "/classify", list(bodies(texts, size)), core, clients, seconds=_LOAD_SECONDS, warm_up=_WARM_UP)
    return load_of(json.loads(finish(begin("load", asdict(plan)))))


def bodies(texts: Sequence[str], size: int) -> Iterator[str]:
    """Yield a request body for each text, with `size` texts starting there."""
    for start in range(len(texts)):
        several = [texts[(start + at) % len(texts)] for at in range(size)]
        yield json.dumps({"text": several[0]} if size == 1 else {"texts": several})


def counted(port: int) -> tuple[float, float]:
    """Return the number of runs so far and of the texts in them."""
    page = ask(port, "/metrics").body.decode()
    found = (re.findall(rf"^reflux_batch_texts_{part}\S* (\S+)$", page, re.MULTILINE) for part in ("count", "sum"))
    runs, texts = (sum(map(float, values)) for values in found)
    return runs, texts


def measured(log: Path) -> Iterator[str]:
    """Yield the log lines with the plan that the service measured and chose."""
    for line in log.read_text().splitlines():
        if '"measured"' in line or '"inference"' in line:
            yield line


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--devices", type=lambda given: given.split(","), default=["cuda", "cpu"])
    parser.add_argument("--load-core", type=int, default=max(os.sched_getaffinity(0)))
    given = parser.parse_args()
    if unknown := set(given.devices) - set(get_args(Kind)):
        parser.error(f"--devices: unknown {', '.join(sorted(unknown))}; there are {', '.join(get_args(Kind))}")
    given.cores = os.sched_getaffinity(0) - {given.load_core}
    if not given.cores:
        parser.error("the load needs a core of its own, but there is only one")
    return given


if __name__ == "__main__":
    main()
