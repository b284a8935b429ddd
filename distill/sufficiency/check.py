"""Answer whether a task has enough data: measure, judge, and put it all into one document."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.data.checks import ENOUGH_ROWS
from distill.data.prepared import Splits
from distill.evaluation.intervals import Interval
from distill.progress import bar, status
from distill.run import Run
from distill.sufficiency import power_law, probe
from distill.sufficiency.diversity import Diversity
from distill.sufficiency.diversity import measure as diversity_of
from distill.sufficiency.label_noise import find_suspects
from distill.sufficiency.learning_curve import FOLDS, LEAST_ROWS, MOST_ROWS, SIZES, Curve, measure
from distill.sufficiency.teacher import TeacherFacts, teacher_facts
from distill.sufficiency.verdict import MOST_ROWS as RULE_ENDS
from distill.sufficiency.verdict import judge

Rows = npt.NDArray[np.intp]

SCHEMA = "1"
_LISTED = 1000  # suspected labels, in the document


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on the labelled rows."""

    curve: Curve
    diversity: Diversity


def check(run: Run) -> dict[str, Any]:
    """Return what `reflux check --json` writes, which `distill.sufficiency.report` presents. Asks the teacher nothing.

    Makes the data stage. Raises DataError if the data has a problem.
    """
    splits = run.make_data()
    with status("reading the teacher's answers"):
        facts = teacher_facts(run, splits)
    rows, classes, of = _labelled(splits, facts)
    sample = np.sort(np.random.default_rng(run.task.data.seed).permutation(len(rows))[:MOST_ROWS])
    measured = _measure(splits, rows[sample], classes[sample], run.task.data.seed)
    curve, gain = _learning_curve(measured, len(splits.train))
    noise = None if isinstance(measured, str) else _label_noise(splits, rows[sample], classes[sample], measured.curve)
    per_label = {label: int((classes == index).sum()) for index, label in enumerate(splits.labels)} if len(rows) else {}
    suspects = (noise["suspects"], noise["rows"]) if noise else (0, 0)
    judgement = judge(len(splits.train), per_label, gain, facts.usd_per_1000, *suspects)
    return {
        "schema": SCHEMA,
        "task": run.task.name,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "remedies": [asdict(remedy) for remedy in judgement.remedies],
        "size": {"train": len(splits.train), "rule": [ENOUGH_ROWS, RULE_ENDS]},
        "labels": {"of": of, "rows": len(rows), "per_label": per_label},
        "diversity": None if isinstance(measured, str) else asdict(measured.diversity),
        "teacher": facts.as_dict(),
        "learning_curve": curve,
        "label_noise": noise,
        "data": splits.report,
    }


def _labelled(splits: Splits, facts: TeacherFacts) -> tuple[Rows, Rows, str]:
    """Return the rows of train that have a label, [N], their classes [N], and whose labels these are.

    They are the teacher's, of which the student learns, and gold labels if the teacher has labelled too few.
    """
    position = {label: index for index, label in enumerate(splits.labels)}
    teachers = [(row, facts.chosen[name]) for row, name in enumerate(splits.train.ids) if name in facts.chosen]
    gold = [(row, position[label]) for row, label in enumerate(splits.train.gold) if label is not None]
    found, of = (teachers, "teacher") if len(teachers) >= min(LEAST_ROWS, len(gold) + 1) else (gold, "gold")
    pairs = np.array(found, dtype=np.intp).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], of


def _measure(splits: Splits, rows: Rows, classes: Rows, seed: int) -> Measured | str:
    """Measure the learning curve and the diversity, or say why that is not possible."""
    if len(rows) < LEAST_ROWS:
        return f"{len(rows):,} texts to train on have a label, and it needs {LEAST_ROWS} or more"
    if len(np.unique(classes)) < 2:
        return "all rows have the same label"
    with status("counting words"):
        try:
            inputs = probe.features([splits.train.texts[row] for row in rows])
        except ValueError:
            return "the texts have no words in common"
        diversity = diversity_of(splits.train.texts, splits.validation.texts, inputs, classes, seed=seed)
    with bar("measuring the learning curve", FOLDS * SIZES) as advance:
        curve = measure(inputs, classes, len(splits.labels), seed=seed, advance=advance)
    return Measured(curve, diversity)


def _learning_curve(measured: Measured | str, rows: int) -> tuple[dict[str, Any], Interval | None]:
    """Describe the curve, and extrapolate it to all `rows` of train and to twice as many."""
    if isinstance(measured, str):
        return {"measured": False, "why": measured}, None
    curve = measured.curve
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
