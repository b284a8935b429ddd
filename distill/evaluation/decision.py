"""The offline gap of an application's decision: how often it acts on the student's answer as on the teacher's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.evaluation.intervals import Interval, wilson

Actions = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class DecisionGap:
    """The decisions of a student and its teacher on the same test rows, as shares of rows with 95 % intervals.

    `agreement` is the share with the same action; leaving a text to a human is one. `teacher_decided` and
    `student_decided` are the shares not left to a human. `precision` is, of the rows that the student decides, the
    share for which the teacher's most probable label leads to the same action. With gold labels the accuracies are, of
    the rows that each decides, the share with the action of the gold label. None where there is no such row.
    """

    agreement: Interval
    teacher_decided: Interval
    student_decided: Interval
    precision: Interval | None
    teacher_accuracy: Interval | None
    student_accuracy: Interval | None

    def as_dict(self) -> dict[str, Any]:
        """Return the gap as JSON values."""
        return asdict(self)


def compare_decisions(
    teacher: Actions, student: Actions, wanted: Actions, gold: Actions | None, abstain: int | None
) -> DecisionGap:
    """Compare actions, each [N]: the teacher's and the student's.

    `wanted` are the actions of the teacher's most probable labels, `gold` those of the gold labels, and `abstain` is
    the action of leaving a text to a human, if the rule has it.
    """
    decided = student != abstain if abstain is not None else np.ones(len(student), dtype=np.bool_)
    by_teacher = teacher != abstain if abstain is not None else np.ones(len(teacher), dtype=np.bool_)
    return DecisionGap(
        agreement=wilson(int((teacher == student).sum()), len(student)),
        teacher_decided=wilson(int(by_teacher.sum()), len(teacher)),
        student_decided=wilson(int(decided.sum()), len(student)),
        precision=_share(student == wanted, decided),
        teacher_accuracy=None if gold is None else _share(teacher == gold, by_teacher),
        student_accuracy=None if gold is None else _share(student == gold, decided),
    )


def _share(right: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> Interval | None:
    return wilson(int((right & among).sum()), int(among.sum())) if among.any() else None
