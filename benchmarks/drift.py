"""Measure how surely input drift is found, and how rarely it is announced without cause.

    reflux demo --output RUN        (or: reflux run examples/banking77/task.yaml --output RUN)
    python benchmarks/drift.py RUN --tickets FILE [--student NAME] [--texts 30000] [--windows 1000] [--runs 200]

RUN is the folder of a run with the students' bundles. FILE is the CSV of the IT tickets, foreign texts for every task.
The usual texts are those that the student was not trained on: validation and test, and for the built-in support desk
newly generated ones, as many as `--texts`. In each run, a reference and an hour of requests are drawn from them at
random, the reference is fitted as export does, and the requests are counted as the service does.

Where the texts suffice, no text is in both: for two disjoint random samples of one pool, the variance of their
difference is exactly that of independent samples, so that a pool may be used again and again. Otherwise the texts are
the population, and both are drawn from it with replacement: then the reference has as many texts as there are.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from distill.data.prepared import Splits, read_splits
from distill.data.support_desk import tickets
from distill.progress import track
from export.bundle.classifier import Classifier, Prediction
from export.bundle.format import Bundle
from export.bundle.reference import Reference
from export.fit_drift import fit_drift
from service.monitor.cells import SLOT_SECONDS
from service.shadow.input_drift import InputDrift

NOON = 1_700_000_099.0  # the last second of a slot
HOUR = 3600
FOREIGN = 3000
FRESH_SEED = 905
CASES = ((0.0, 1000), (0.0, 5000), (0.2, 1000), (0.05, 5000))
"""Shares of foreign texts, and numbers of requests."""


class Task:
    """The answers of one bundle to usual texts, training texts and foreign ones; M is how many a reference has."""

    def __init__(self, run: Path, student: str, foreign: Sequence[str], fresh: int, texts: int | None) -> None:
        bundle = Bundle.open(run / "bundles" / student)
        splits = read_splits(run / "data")
        held_out = (*splits.validation.texts, *splits.test.texts)
        desk = _is_desk(splits)
        usual = [ticket.text for ticket in tickets.generate(fresh, FRESH_SEED)] if desk else list(held_out)
        self.labels = bundle.manifest.labels
        self.texts = texts or (len(held_out) if desk else len(held_out) * 4 // 7)
        self.classifier = Classifier.load(bundle)
        self.reference = replace(Reference.open(bundle), drift=None)
        self.usual = self._answer(usual, f"{student}: usual texts")
        self.foreign = self._answer(foreign, f"{student}: foreign texts")
        self.training = self._answer(splits.train.texts[:3000], f"{student}: training texts")

    def _answer(self, texts: Sequence[str], what: str) -> list[Prediction]:
        return [self.classifier.classify(text) for text in track(texts, what, len(texts))]

    def inputs(self, random: np.random.Generator, share: float, requests: int) -> InputDrift:
        """Return the drift of `requests` requests, a `share` of them foreign, from a newly fitted reference."""
        pool, strange = len(self.usual), random.binomial(requests, share)
        if self.texts + requests <= pool:
            order = random.permutation(pool)
            known, usual = order[: self.texts], order[self.texts : self.texts + requests - strange]
        else:
            known, usual = random.integers(0, pool, pool), random.integers(0, pool, requests - strange)
        drift = fit_drift(
            [self.usual[index] for index in known],
            self.reference,
            unknown=self.classifier.tokenizer.unknown_id is not None,
        )
        inputs = InputDrift(replace(self.reference, drift=drift), self.labels)
        answers = [self.usual[index] for index in usual]
        answers += [self.foreign[index] for index in random.integers(0, len(self.foreign), strange)]
        for place, index in enumerate(random.permutation(requests)):
            inputs.counts.count(answers[index], NOON - HOUR + HOUR * (place + 1) / requests)
        return inputs

    def expected(self, answers: Sequence[Prediction]) -> float:
        """Return the mean expected disagreement."""
        return float(np.mean([self.reference.expected_disagreement(answer.score) for answer in answers]))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tickets", type=Path, required=True)
    parser.add_argument("--student", action="append")
    parser.add_argument("--texts", type=int, default=30_000)
    parser.add_argument("--reference", type=int, help="texts of the reference; default: as many as export has")
    parser.add_argument("--windows", type=int, default=1000, help="undrifted windows of 1,000 requests")
    parser.add_argument("--runs", type=int, default=200, help="runs of every other case")
    arguments = parser.parse_args()
    foreign = _foreign(arguments.tickets)
    for student in arguments.student or ("encoder", "static"):
        task = Task(arguments.run, student, foreign, arguments.texts, arguments.reference)
        print(f"\n{student}: a reference of {task.texts} texts, {len(task.usual)} usual texts in the pool")
        parts = (("usual", task.usual), ("training", task.training), ("foreign", task.foreign))
        print("expected disagreement:", ", ".join(f"{name} texts {task.expected(part):.2%}" for name, part in parts))
        print("| foreign | requests | runs | detected | by feature | largest statistic / threshold |")
        print("|---|---|---|---|---|---|")
        for case, (share, requests) in enumerate(CASES):
            runs = arguments.windows if case == 0 else arguments.runs
            _measure(task, share, requests, runs, case)
        _cost(task)


def _measure(task: Task, share: float, requests: int, runs: int, seed: int) -> None:
    random, detected, ratios = np.random.default_rng(seed), 0, []
    features: Counter[str] = Counter()
    for _ in track(range(runs), f"{share:.0%} foreign in {requests}", runs):
        found = task.inputs(random, share, requests).find(NOON)
        drifted = {finding.feature for finding in found if finding.drift}
        features.update(drifted)
        detected += bool(drifted)
        ratios.append(max(finding.test.statistic / finding.test.threshold for finding in found if finding.test))
    named = ", ".join(f"{name} {count / runs:.1%}" for name, count in features.most_common()) or "none"
    print(
        f"| {share:.0%} | {requests} | {runs} | {detected} ({detected / runs:.1%}) | {named} "
        f"| median {np.median(ratios):.2f}, highest {max(ratios):.2f} |",
        flush=True,
    )


def _cost(task: Task) -> None:
    """Print what counting an answer costs: within the first requests of a slot, and among many."""
    inputs = task.inputs(np.random.default_rng(0), 0.0, 1000)
    answers, first, later = task.usual[:250], [], []
    for slot in range(1, 40):
        start = NOON + slot * SLOT_SECONDS
        took = [_seconds(inputs, answers, start) for _ in range(60)]
        first.append(min(took[:2]))
        later.append(min(took[30:]))
    started = time.perf_counter()
    inputs.report(NOON + 40 * SLOT_SECONDS)
    report = time.perf_counter() - started
    print(
        f"counting an answer: {min(first) / 250 * 1e6:.1f} µs among the first 500 of five minutes, "
        f"{min(later) / 250 * 1e6:.1f} µs after 7,500; a report: {report * 1e3:.1f} ms"
    )


def _seconds(inputs: InputDrift, answers: Sequence[Prediction], now: float) -> float:
    started = time.perf_counter()
    for answer in answers:
        inputs.counts.count(answer, now)
    return time.perf_counter() - started


def _foreign(file: Path) -> list[str]:
    """Return distinct texts of a CSV file of IT tickets, the same each time."""
    with gzip.open(file, "rt", encoding="utf-8") as rows:
        texts = sorted({row["Document"] for row in csv.DictReader(rows)})
    return [texts[index] for index in np.random.default_rng(0).permutation(len(texts))[:FOREIGN]]


def _is_desk(splits: Splits) -> bool:
    """Whether the texts are those of the built-in support desk."""
    return set(splits.labels) == set(tickets.CATEGORIES)


if __name__ == "__main__":
    main()
