"""Measure what pruning an encoder student costs in agreement, and what it brings in speed, before and after fitting.

    python benchmarks/pruning.py TASK RUN STUDENT [--shares 0.25 0.125] [--epochs 0 1] [--core 1]

Each share is removed of heads and neurons alike. For each share and number of epochs there is a row: what the gate
sees, that is the agreement with the whole student in fp32 on validation, in fp32 and int8; the agreement with the
teacher on the test split in int8, whose difference to the whole student's has a paired 95 % interval; and the time of a
text in int8, paired with that of the whole student in int8. Measure times on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from variants import TIMED_TEXTS, TYPICAL_TEXTS, difference, load, make

from distill.run import Run
from distill.students.student import Student, load_student
from distill.task import Prune, load_task
from export.bundle.format import INT8
from export.graph.speed import measure
from export.pruning.prune import Pruned, prune
from export.selection import evenly_spaced

ROUNDS = 5


def answers(student: Student, graph: Path, texts: Sequence[str]) -> npt.NDArray[np.intp]:
    """Return what a graph chooses for each text."""
    return load(student, {INT8: graph})[INT8].probabilities(texts).argmax(axis=1)


def of_layers(counts: Sequence[tuple[int, int]]) -> str:
    """Return what is left in each layer, of how many."""
    return f"{', '.join(str(kept) for kept, _ in counts)} of {counts[0][1]}"


def main() -> None:
    """Measure the shares that are given."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("task", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("student")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.125])
    parser.add_argument("--epochs", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--core", type=int, default=None, help="run on this core alone")
    given = parser.parse_args()
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
        torch.set_num_threads(1)
    run = Run(load_task(given.task), given.run)
    splits, soft = run.splits(), run.soft_labels()
    known = set(soft.ids)
    test = splits.test.take([row for row, name in enumerate(splits.test.ids) if name in known])
    said = soft.probabilities[soft.rows_of(test.ids)].argmax(axis=1)
    held = splits.validation.texts
    typical = evenly_spaced(held, TYPICAL_TEXTS)
    student = load_student(run.student(given.student).path)
    wanted = [
        Prune(heads=share, feed_forward=share, epochs=epochs) for epochs in given.epochs for share in given.shares
    ]
    start = time.process_time()
    pruned: list[Pruned | None] = [None, *prune(student, wanted, splits.train.texts, held, given.student)]
    print(f"pruned in {time.process_time() - start:.0f} s of CPU time")
    expected = student.logits(held).argmax(axis=1)
    with TemporaryDirectory() as scratch:
        owners = [student if each is None else each.student for each in pruned]
        graphs = [make(owner, Path(scratch) / str(place), typical, (INT8,))[INT8] for place, owner in enumerate(owners)]
        loaded = {str(place): load(owners[place], {INT8: graph})[INT8] for place, graph in enumerate(graphs)}
        speeds = measure(loaded, evenly_spaced(test.texts, TIMED_TEXTS), rounds=ROUNDS)
        agreed = [answers(student, graph, test.texts) == said for graph in graphs]
        print(f"\n{given.student}, {len(held):,} validation and {len(test.texts):,} test texts\n")
        print(
            "| heads | neurons | epochs | agreement with the whole one, fp32 | int8 | with the teacher | points "
            "| share of the time | MiB |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for place, each in enumerate(pruned):
            own = owners[place].logits(held).argmax(axis=1) == expected
            reduced = answers(student, graphs[place], held) == expected
            low, high = speeds.quartiles(str(place), "0")
            shape = "all | all |" if each is None else f"{of_layers(each.heads)} | {of_layers(each.neurons)} |"
            print(
                f"| {shape} {'' if each is None else each.settings.epochs} | {100 * own.mean():.2f} % "
                f"| {100 * reduced.mean():.2f} % | {100 * agreed[place].mean():.2f} % "
                f"| {difference(agreed[place], agreed[0])} "
                f"| {speeds.ratio(str(place), '0'):.2f} ({low:.2f} to {high:.2f}) "
                f"| {graphs[place].stat().st_size / 2**20:.1f} |"
            )
    print(f"\n{time.process_time():.0f} s of CPU time in all")


if __name__ == "__main__":
    main()
