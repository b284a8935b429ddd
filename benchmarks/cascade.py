"""Measure what a cascade saves and loses, and whether its guarantee holds, with many draws of validation rows.

The run of a task is needed, with its students' bundles and, for `--tickets`, the teacher's (`reflux demo` makes one).
The texts of the validation and the test split, or so many new tickets of the built-in support desk, are answered by the
stages and the teacher once. They stand for all requests: rows are drawn from them with replacement, as requests come,
cut-offs are found on these rows, and what they lose is counted over all the texts. (Judged by the texts that were not
drawn, a guarantee would look worse than it is: those are few, and less lucky where the drawn ones were luckier.) With
`--defer`, the teacher is the last stage, and the agreements that are given are to be kept instead of the margins.

    python benchmarks/cascade.py TASK RUN static encoder [--tickets 10000] [--draws 200] [--rows 1000 2500 5000]
                                 [--defer 0.95 0.99]
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distill.data.support_desk.tickets import generate
from distill.run import Run
from distill.task import load_task
from export.bundle.classifier import Classifier
from export.bundle.format import Bundle
from export.bundle.teacher import BundleTeacher
from export.cut_offs import MARGINS, StageAnswers, find_cut_offs, rows_needed
from export.graph.speed import measure
from export.run import TEACHER, ExportRun
from export.selection import evenly_spaced

Classes = npt.NDArray[np.intp]

TICKET_SEED = 906
TIMED_TEXTS = 100


@dataclass(frozen=True, slots=True)
class Drawn:
    """Means over draws: the share of texts that the last stage does not read, of the last student's time, the net loss.

    `highest` is the largest net loss of a draw; `broken` the number of draws in which it is above the margin.
    """

    early: float
    time: float
    loss: float
    highest: float
    broken: int


def judge(
    stages: Sequence[StageAnswers],
    teacher: Classes,
    rows: int,
    margin: float,
    draws: int,
    *,
    teacher_last: bool = False,
) -> Drawn:
    """Find cut-offs on `rows` of N texts, drawn with replacement, and judge them on all, `draws` times."""
    alone = stages[-2 if teacher_last else -1].cost
    random, found = np.random.default_rng(0), []
    costs = np.cumsum([stage.cost for stage in stages])
    right = np.stack([stage.labels == teacher for stage in stages])
    every = np.arange(len(teacher))
    for _ in range(draws):
        drawn = random.integers(len(teacher), size=rows)
        shown = [replace(stage, labels=stage.labels[drawn], scores=stage.scores[drawn]) for stage in stages]
        cut_offs = find_cut_offs(shown, teacher[drawn], margin=margin, teacher_last=teacher_last).cut_offs
        sure = [stage.scores >= cut_off for stage, cut_off in zip(stages, cut_offs, strict=False)]
        answering = np.stack([*sure, np.ones(len(teacher), dtype=np.bool_)]).argmax(axis=0)
        loss = right[-1].mean() - right[answering, every].mean()
        early = (answering < len(stages) - 1).mean()
        found.append((early, costs[answering].mean() / alone, loss))
    early, time, loss = np.mean(found, axis=0).tolist()
    losses = np.array([loss for _, _, loss in found])
    return Drawn(early, time, loss, float(losses.max()), int((losses > margin).sum()))


def labelled(exported: ExportRun) -> tuple[list[str], Classes]:
    """Return the texts of the validation and the test split, and the teacher's labels."""
    splits, soft = exported.run.splits(), exported.run.soft_labels()
    known = set(soft.ids)
    rows = [
        (name, text)
        for split in (splits.validation, splits.test)
        for name, text in zip(split.ids, split.texts, strict=True)
        if name in known
    ]
    return [text for _, text in rows], soft.hard[soft.rows_of([name for name, _ in rows])]


async def ask(teacher: BundleTeacher, texts: list[str]) -> Classes:
    """Return the teacher's label of each text, as an index."""
    answers = await teacher.ask(texts)
    return np.array([np.argmax(answer.probabilities) for answer in answers])


def main() -> None:
    """Print a row for each margin and number of rows that certifies it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("stages", nargs="+")
    parser.add_argument("--tickets", type=int, default=0)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 2500, 5000])
    parser.add_argument(
        "--defer", type=float, nargs="+", metavar="AGREEMENT", help="leave what is unsure to the teacher"
    )
    given = parser.parse_args()
    exported = ExportRun(Run(load_task(given.task), given.run))
    bundles = [exported.bundles()[name] for name in given.stages]
    if given.tickets:
        texts = [ticket.text for ticket in generate(given.tickets, TICKET_SEED)]
        bundle = Bundle.open(exported.bundle_stage(TEACHER).path)
        said = asyncio.run(ask(BundleTeacher(bundle, bundles[-1].manifest.labels), texts))
    else:
        texts, said = labelled(exported)
    classifiers = dict(zip(given.stages, map(Classifier.load, bundles), strict=True))
    times = measure(classifiers, evenly_spaced(texts, TIMED_TEXTS)).milliseconds
    stages = []
    for name, classifier in classifiers.items():
        answers = classifier.probabilities(texts)
        stages.append(StageAnswers(answers.argmax(axis=1), answers.max(axis=1).astype(float), times[name]))
        agreement = (stages[-1].labels == said).mean()
        print(f"{name}: agrees with the teacher on {agreement:.2%} of {len(texts):,} texts, {times[name]:.3f} ms")
    defers = given.defer is not None
    if defers:
        stages.append(StageAnswers(said, np.ones(len(said)), 0.0))
    kept, lost = ("agreement", "answered otherwise") if defers else ("margin", "agreement lost")
    print(f"| {kept} | validation rows | read by the last stage | time | {lost} | at most | broken |")
    print("|---|---|---|---|---|---|---|")
    for margin in [round(1 - agreement, 9) for agreement in given.defer] if defers else MARGINS:
        for rows in given.rows:
            if rows >= rows_needed(margin, losses=1, teacher_last=defers):
                drawn = judge(stages, said, rows, margin, given.draws, teacher_last=defers)
                promised = f"{100 * (1 - margin):g} %" if defers else f"{100 * margin:g} points"
                print(
                    f"| {promised} | {rows:,} | {1 - drawn.early:.{int(defers)}%} | {drawn.time:.0%} | "
                    f"{100 * drawn.loss:.2f} points | {100 * drawn.highest:.2f} points | "
                    f"{drawn.broken} of {given.draws} |"
                )


if __name__ == "__main__":
    main()
