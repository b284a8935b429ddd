"""The offline distillation gap: how far a student is from its teacher on the test split, with intervals.

A student is compared with its teacher, and with gold labels if there are any. `report` presents the numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.evaluation.accuracy import McNemar, accuracies
from distill.evaluation.intervals import Interval, paired_bootstrap, wilson

Floats = npt.NDArray[np.floating]
Classes = npt.NDArray[np.intp]

SCHEMA = 2
"""The version of `gap.json`; a new one makes the report of a run out of date."""

_FLOOR = 1e-4


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One label: how often teacher and student chose it, and the student's recall and precision against the teacher."""

    label: str
    teacher: int
    student: int
    recall: Interval | None
    precision: Interval | None


@dataclass(frozen=True, slots=True)
class Gap:
    """A student against its teacher on N test rows.

    `agreement` is the share of rows with the same first choice. `kl` is the mean KL(teacher ‖ student) in nats,
    probabilities floored at 1e-4, and `js` the mean Jensen-Shannon divergence, in [0, ln 2]. `confusion` holds, for
    each pair of classes that occurs, the teacher's class, the student's and the number of rows. With gold labels there
    are both accuracies and macro-F1, `retention` (student's accuracy over teacher's), `loss` (teacher's minus
    student's) and McNemar's test, else they are None.
    """

    rows: int
    agreement: Interval
    kl: Interval
    js: Interval
    teacher_accuracy: Interval | None
    student_accuracy: Interval | None
    retention: Interval | None
    loss: Interval | None
    teacher_macro_f1: Interval | None
    student_macro_f1: Interval | None
    mcnemar: McNemar | None
    classes: tuple[ClassRow, ...]
    confusion: tuple[tuple[int, int, int], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the gap as JSON values."""
        return asdict(self)


def compare(
    teacher: Floats, student: Floats, labels: tuple[str, ...], gold: Classes | None = None, *, seed: int = 0
) -> Gap:
    """Measure the gap between a teacher's and a student's probabilities, both [N, K]; `gold` are classes [N].

    Raises ValueError when the shapes do not fit each other, `labels` and `gold`, or there is no row.
    """
    if teacher.shape != student.shape or teacher.ndim != 2 or len(teacher) == 0:
        raise ValueError(f"expected two arrays [N, K] of one shape, got {teacher.shape} and {student.shape}")
    if teacher.shape[1] != len(labels):
        raise ValueError(f"expected {teacher.shape[1]} labels, got {len(labels)}")
    if gold is not None and gold.shape != (len(teacher),):
        raise ValueError(f"expected {len(teacher)} gold classes, got shape {gold.shape}")
    chosen, followed = teacher.argmax(1), student.argmax(1)
    kl, js = paired_bootstrap(
        np.column_stack([divergence(teacher, student), jensen_shannon(teacher, student)]),
        lambda means: means,
        seed=seed,
    )
    found = None if gold is None else accuracies(chosen, followed, gold, seed=seed)
    return Gap(
        rows=len(teacher),
        agreement=wilson(int((chosen == followed).sum()), len(teacher)),
        kl=kl,
        js=js,
        teacher_accuracy=None if found is None else found.teacher,
        student_accuracy=None if found is None else found.student,
        retention=None if found is None else found.retention,
        loss=None if found is None else found.loss,
        teacher_macro_f1=None if found is None else found.teacher_macro_f1,
        student_macro_f1=None if found is None else found.student_macro_f1,
        mcnemar=None if found is None else found.mcnemar,
        classes=_per_class(chosen, followed, labels),
        confusion=_confusion(chosen, followed),
    )


def divergence(teacher: Floats, student: Floats) -> npt.NDArray[np.float64]:
    """Return KL(teacher ‖ student) of each row in nats, [N]; flooring both at 1e-4 keeps it finite."""
    p, q = (_floored(rows) for rows in (teacher, student))
    result: npt.NDArray[np.float64] = (p * np.log(p / q)).sum(axis=1)
    return result


def jensen_shannon(teacher: Floats, student: Floats) -> npt.NDArray[np.float64]:
    """Return the Jensen-Shannon divergence of each row in nats, [N], in [0, ln 2]; both are floored at 1e-4."""
    p, q = (_floored(rows) for rows in (teacher, student))
    middle = (p + q) / 2
    result: npt.NDArray[np.float64] = (p * np.log(p / middle) + q * np.log(q / middle)).sum(axis=1) / 2
    return result


def _floored(rows: Floats) -> npt.NDArray[np.float64]:
    floored = np.maximum(rows.astype(np.float64), _FLOOR)
    result: npt.NDArray[np.float64] = floored / floored.sum(axis=1, keepdims=True)
    return result


def _per_class(chosen: Classes, followed: Classes, labels: tuple[str, ...]) -> tuple[ClassRow, ...]:
    rows = []
    for index, label in enumerate(labels):
        teacher, student = int((chosen == index).sum()), int((followed == index).sum())
        both = int(((chosen == index) & (followed == index)).sum())
        rows.append(
            ClassRow(
                label,
                teacher,
                student,
                wilson(both, teacher) if teacher else None,
                wilson(both, student) if student else None,
            )
        )
    return tuple(rows)


def _confusion(chosen: Classes, followed: Classes) -> tuple[tuple[int, int, int], ...]:
    pairs, counts = np.unique(np.column_stack([chosen, followed]), axis=0, return_counts=True)
    return tuple((int(said), int(answered), int(count)) for (said, answered), count in zip(pairs, counts, strict=True))
