"""Measure every graph of a student on the test split, and what a trimmed vocabulary saves and costs.

    python benchmarks/variants.py TASK RUN STUDENT... [--core 1]

For each student it prints two tables. The first has the graphs that an export tries: the time of a text, paired with
the fastest fp32 graph, and the agreement with the teacher on the test split, whose difference to fp32 has a paired
95 % interval. The second has the student with its whole vocabulary and with that of its training texts: sizes, the
median time to load graph and tokenizer, and agreement, whether an export would let it pass or not. Measure on a quiet
machine.
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

from distill.evaluation.intervals import paired_bootstrap
from distill.run import Run
from distill.students.student import TOKENIZER, Student, load_student
from distill.task import load_task
from export.bundle.classifier import Classifier
from export.bundle.format import FUSED, INT8, MODEL, PLAIN
from export.graph.quantise import KINDS
from export.graph.speed import measure
from export.graph.variants import load_variants, make_variants
from export.selection import evenly_spaced
from export.torch_to_onnx import export_onnx
from export.trim_vocabulary import trim_vocabulary

Classes = npt.NDArray[np.intp]

TYPICAL_TEXTS = 200
TIMED_TEXTS = 100
ROUNDS = 10
LOADS = 9


def chosen(description: str) -> tuple[Run, list[str]]:
    """Read the command line, keep to the core that it names, and return the run and its students' names."""
    parser = argparse.ArgumentParser(description=description.split("\n\n")[0])
    parser.add_argument("task", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("students", nargs="+")
    parser.add_argument("--core", type=int, default=None, help="run on this core alone")
    given = parser.parse_args()
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
    run = Run(load_task(given.task), given.run)
    return run, given.students


def make(student: Student, folder: Path, typical: Sequence[str], kinds: Sequence[str] = KINDS) -> dict[str, Path]:
    """Make the graphs of a student that an export tries on a CPU, of the reduced ones those of `kinds`."""
    folder.mkdir()
    student.encode(["a"])  # sets the truncation
    student.tokenizer.save(str(folder / TOKENIZER))
    export_onnx(student, folder / MODEL)
    config = getattr(student.network.module, "config", None)
    return make_variants(folder / MODEL, folder, config, student.encode(typical), kinds)


def load(student: Student, graphs: dict[str, Path]) -> dict[str, Classifier]:
    """Load graphs, which have the student's tokenizer beside them."""
    folder = next(iter(graphs.values())).parent
    return load_variants(graphs, folder / TOKENIZER, student.max_tokens, len(student.labels))


def loading(student: Student, graph: Path) -> float:
    """Return the median time, in ms, to load a graph and its tokenizer."""
    spent = []
    for _ in range(LOADS):
        start = time.perf_counter()
        load(student, {INT8: graph})
        spent.append(1000 * (time.perf_counter() - start))
    return float(np.median(spent))


def difference(agreed: npt.NDArray[np.bool_], than: npt.NDArray[np.bool_]) -> str:
    """Return the difference of two rates of agreement on the same texts, in points, with its 95 % interval."""
    (found,) = paired_bootstrap((agreed * 1.0 - than * 1.0)[:, None], lambda means: means, seed=0)
    return f"{100 * found.value:+.2f} [{100 * found.lower:+.2f}, {100 * found.upper:+.2f}]"


def show_variants(student: Student, graphs: dict[str, Path], texts: Sequence[str], said: Classes) -> None:
    """Print the table of the graphs."""
    loaded = load(student, graphs)
    speeds = measure(loaded, evenly_spaced(texts, TIMED_TEXTS), rounds=ROUNDS)
    exact = min((name for name in (PLAIN, FUSED) if name in graphs), key=speeds.milliseconds.__getitem__)
    agreed = {name: own.probabilities(texts).argmax(axis=1) == said for name, own in loaded.items()}
    print(
        f"| graph | ms per text | share of the time of {exact} | agreement with the teacher | points on {exact} | MiB |"
    )
    print("|---|---|---|---|---|---|")
    for name, path in graphs.items():
        low, high = speeds.quartiles(name, exact)
        print(
            f"| {name} | {speeds.milliseconds[name]:.3f} | {speeds.ratio(name, exact):.3f} ({low:.3f} to {high:.3f}) "
            f"| {100 * agreed[name].mean():.2f} % | {difference(agreed[name], agreed[exact])} "
            f"| {path.stat().st_size / 2**20:.1f} |"
        )


def main() -> None:
    """Measure the students that are named."""
    run, students = chosen(__doc__)
    splits, soft = run.splits(), run.soft_labels()
    known = set(soft.ids)
    test = splits.test.take([row for row, name in enumerate(splits.test.ids) if name in known])
    said = soft.probabilities[soft.rows_of(test.ids)].argmax(axis=1)
    held = splits.validation.texts
    typical = evenly_spaced(held, TYPICAL_TEXTS)
    for name in students:
        student = load_student(run.student(name).path)
        print(f"\n{name}, {len(test.texts):,} texts\n")
        with TemporaryDirectory() as scratch:
            whole = make(student, Path(scratch) / "whole", typical)
            show_variants(student, whole, test.texts, said)
            trimmed = trim_vocabulary(student, splits.train.texts, held, 0.0, name)
            print(f"\nOn validation, the trimmed one chooses as the whole one on {100 * trimmed.gate.measured:.2f} %.")
            small = make(trimmed.student, Path(scratch) / "trimmed", typical)
            print("\n| vocabulary | tokens | graph, MiB | tokenizer, KiB | loading, ms | agreement | points |")
            print("|---|---|---|---|---|---|---|")
            before = None
            for words, count, own, graphs in (
                ("whole", trimmed.whole, student, whole),
                ("trimmed", trimmed.kept, trimmed.student, small),
            ):
                agreed = load(own, {INT8: graphs[INT8]})[INT8].probabilities(test.texts).argmax(axis=1) == said
                before = agreed if before is None else before
                print(
                    f"| {words} | {count:,} | {graphs[INT8].stat().st_size / 2**20:.2f} "
                    f"| {(graphs[INT8].parent / TOKENIZER).stat().st_size / 2**10:.0f} "
                    f"| {loading(own, graphs[INT8]):.1f} | {100 * agreed.mean():.2f} % | {difference(agreed, before)} |"
                )


if __name__ == "__main__":
    main()
