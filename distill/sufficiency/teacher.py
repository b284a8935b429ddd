"""What is known of the teacher before more is asked of it: the labels it has given, and the price of more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from distill.labelling.soft_labels import SoftLabels
from distill.run import LABELS, RECORD, Run


@dataclass(frozen=True, slots=True)
class TeacherFacts:
    """`soft` are its labels, None before `reflux label`; `record` is what the labelling noted.

    `usd_per_1000` is the price of 1,000 texts, None if it is not known; it is 0 for answers that cost nothing.
    """

    soft: SoftLabels | None
    record: dict[str, Any]
    usd_per_1000: float | None


def teacher_facts(run: Run) -> TeacherFacts:
    """Read what is stored of a task's teacher. Asks it nothing."""
    listed: float | None = getattr(run.task.teacher, "usd_per_1000", None)
    if not run.labels.done:
        return TeacherFacts(None, {}, listed)
    soft = SoftLabels.read(run.labels.path / LABELS)
    record = json.loads((run.labels.path / RECORD).read_text(encoding="utf-8"))
    paid = float(soft.cost_usd.mean() * 1000) if len(soft) and soft.cost_usd.any() else None
    return TeacherFacts(soft, record, listed if paid is None else paid)
