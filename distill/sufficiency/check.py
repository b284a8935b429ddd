"""Answer whether a task has enough data: measure, judge, and put it all into one document."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.data.checks import ENOUGH_ROWS
from distill.data.prepared import Splits
from distill.evaluation.intervals import Interval
from distill.progress import bar, status
from distill.run import Run
from distill.sufficiency import power_law, probe
from distill.sufficiency.label_noise import find_suspects
from distill.sufficiency.learning_curve import FOLDS, LEAST_ROWS, SIZES, Curve, measure
from distill.sufficiency.teacher import TeacherFacts, teacher_facts
from distill.sufficiency.verdict import MOST_ROWS, judge

Rows = npt.NDArray[np.intp]

SCHEMA = "1"
_LISTED = 1000  # suspected labels, in the document


def check(run: Run) -> dict[str, Any]:
    """Return what `reflux check --json` writes, which `distill.sufficiency.report` presents. Asks the teacher nothing.

    Makes the data stage. Raises DataError if the data has a problem.
    """
    splits = run.make_data()
    facts = teacher_facts(run)
    rows, classes, of = _labelled(splits, facts)
    measured = _measure(splits, rows, classes, run.task.data.seed)
    curve, gain = _learning_curve(measured, len(rows))
    noise = None if isinstance(measured, str) else _label_noise(splits, rows, classes, measured)
    per_label = {label: int((classes == index).sum()) for index, label in enumerate(splits.labels)} if len(rows) else {}
    judgement = judge(
        len(splits.train), per_label, gain, facts.usd_per_1000, noise["suspects"] if noise else 0, len(rows)
    )
    return {
        "schema": SCHEMA,
        "task": run.task.name,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "remedies": [asdict(remedy) for remedy in judgement.remedies],
        "size": {"train": len(splits.train), "rule": [ENOUGH_ROWS, MOST_ROWS]},
        "labels": {"of": of, "rows": len(rows), "per_label": per_label},
        "learning_curve": curve,
        "label_noise": noise,
        "usd_per_1000": facts.usd_per_1000,
        "data": splits.report,
    }


def _labelled(splits: Splits, facts: TeacherFacts) -> tuple[Rows, Rows, str]:
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


def _measure(splits: Splits, rows: Rows, classes: Rows, seed: int) -> Curve | str:
    """Measure the learning curve, or say why that is not possible."""
    if len(rows) < LEAST_ROWS:
        return f"{len(rows):,} texts to train on have a label, and it needs {LEAST_ROWS} or more"
    if len(np.unique(classes)) < 2:
        return "all rows have the same label"
    with status("counting words"):
        try:
            inputs = probe.features([splits.train.texts[row] for row in rows])
        except ValueError:
            return "the texts have no words in common"
    with bar("measuring the learning curve", FOLDS * SIZES) as advance:
        return measure(inputs, classes, len(splits.labels), seed=seed, advance=advance)


def _learning_curve(curve: Curve | str, rows: int) -> tuple[dict[str, Any], Interval | None]:
    """Describe the curve of a number of labelled rows, and extrapolate it to twice as many."""
    if isinstance(curve, str):
        return {"measured": False, "why": curve}, None
    law = power_law.fit(curve.sizes, curve.errors)
    gain = law.gain(rows, 2 * rows)
    return {
        "measured": True,
        "sizes": curve.sizes.astype(int).tolist(),
        "right": (1 - curve.errors).mean(axis=0).tolist(),
        "folds": (1 - curve.errors).tolist(),
        "now": asdict(_right(law.error(rows))),
        "twice": asdict(_right(law.error(2 * rows))),
        "gain": asdict(gain),
    }, gain


def _label_noise(splits: Splits, rows: Rows, classes: Rows, curve: Curve) -> dict[str, Any]:
    """Describe the labels that look wrong to the probes of the learning curve; the first _LISTED are listed."""
    found = find_suspects(classes[curve.rows], curve.probabilities)
    listed = [
        {
            "id": splits.train.ids[row],
            "text": splits.train.texts[row],
            "label": splits.labels[own],
            "likely": splits.labels[likely],
        }
        for row, own, likely in zip(
            rows[curve.rows[found.rows]][:_LISTED], classes[curve.rows[found.rows]], found.likely, strict=False
        )
    ]
    return {"rows": len(curve.rows), "suspects": len(found.rows), "listed": listed}


def _right(error: Interval) -> Interval:
    return Interval(1 - error.value, 1 - error.upper, 1 - error.lower)
