"""Answer whether a task has enough data: measure, judge, and put it all into one document."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.data.checks import ENOUGH_ROWS
from distill.data.prepared import Splits
from distill.evaluation.intervals import Interval
from distill.progress import bar, status
from distill.run import Run
from distill.sufficiency.teacher import TeacherFacts, teacher_facts
from distill.sufficiency.verdict import MOST_ROWS, judge

SCHEMA = "1"


def check(run: Run) -> dict[str, Any]:
    """Return what `reflux check --json` writes, which `distill.sufficiency.report` presents. Asks the teacher nothing.

    Makes the data stage. Raises DataError if the data has a problem.
    """
    splits = run.make_data()
    facts = teacher_facts(run)
    rows, classes, of = _labelled(splits, facts)
    curve, gain = _learning_curve(splits, rows, classes, run.task.data.seed)
    per_label = {label: int((classes == index).sum()) for index, label in enumerate(splits.labels)} if len(rows) else {}
    judgement = judge(len(splits.train), per_label, gain, facts.usd_per_1000)
    return {
        "schema": SCHEMA,
        "task": run.task.name,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "remedies": [asdict(remedy) for remedy in judgement.remedies],
        "size": {"train": len(splits.train), "rule": [ENOUGH_ROWS, MOST_ROWS]},
        "labels": {"of": of, "rows": len(rows), "per_label": per_label},
        "learning_curve": curve,
        "usd_per_1000": facts.usd_per_1000,
        "data": splits.report,
    }


def _labelled(splits: Splits, facts: TeacherFacts) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], str]:
    """Return the rows of train that have a label, [N], their classes [N], and whose labels these are.

    They are the teacher's, of which the student learns, and gold labels only before the teacher was asked.
    """
    if facts.soft is not None:
        chosen = dict(zip(facts.soft.ids, facts.soft.hard.tolist(), strict=True))
        found = [(row, chosen[name]) for row, name in enumerate(splits.train.ids) if name in chosen]
    else:
        position = {label: index for index, label in enumerate(splits.labels)}
        found = [(row, position[label]) for row, label in enumerate(splits.train.gold) if label is not None]
    pairs = np.array(found, dtype=np.intp).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], "gold" if facts.soft is None else "teacher"


def _learning_curve(
    splits: Splits, rows: npt.NDArray[np.intp], classes: npt.NDArray[np.intp], seed: int
) -> tuple[dict[str, Any], Interval | None]:
    """Measure and extrapolate the curve; without one, the document says why."""
    from distill.sufficiency import learning_curve, power_law, probe

    if len(rows) < learning_curve.LEAST_ROWS:
        why = f"{len(rows):,} texts to train on have a label, and it needs {learning_curve.LEAST_ROWS} or more"
        return {"measured": False, "why": why}, None
    if len(Counter(classes.tolist())) < 2:
        return {"measured": False, "why": "all rows have the same label"}, None
    with status("counting words"):
        try:
            inputs = probe.features([splits.train.texts[row] for row in rows])
        except ValueError:
            return {"measured": False, "why": "the texts have no words in common"}, None
    with bar("measuring the learning curve", learning_curve.FOLDS * learning_curve.SIZES) as advance:
        curve = learning_curve.measure(inputs, classes, len(splits.labels), seed=seed, advance=advance)
    law = power_law.fit(curve.sizes, curve.errors)
    now, twice = float(len(rows)), 2.0 * len(rows)
    gain = law.gain(now, twice)
    return {
        "measured": True,
        "sizes": curve.sizes.astype(int).tolist(),
        "right": (1 - curve.errors).mean(axis=0).tolist(),
        "folds": (1 - curve.errors).tolist(),
        "now": asdict(_right(law.error(now))),
        "twice": asdict(_right(law.error(twice))),
        "gain": asdict(gain),
    }, gain


def _right(error: Interval) -> Interval:
    return Interval(1 - error.value, 1 - error.upper, 1 - error.lower)
