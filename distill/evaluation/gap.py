"""The offline distillation gap: how far a student is from its teacher on the test split, with intervals.

A student is compared with its teacher, and with gold labels if there are any. `report` presents the numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.evaluation.calibration import BINS, binned_residuals, confidence_bins
from distill.evaluation.intervals import Interval, paired_bootstrap, wilson

Floats = npt.NDArray[np.floating]
Classes = npt.NDArray[np.intp]

SCHEMA = 1
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
    probabilities floored at 1e-4. `calibration_error` compares the student's confidence with its agreement with the
    teacher; like every binned estimate it is biased upwards by chance. With gold labels there are both accuracies,
    `retention` (student's accuracy over teacher's) and `loss` (teacher's minus student's), else they are None.
    `reliability` holds, for each confidence bin that is not empty, its rows, mean confidence and agreement.
    """

    rows: int
    agreement: Interval
    kl: Interval
    calibration_error: Interval
    teacher_accuracy: Interval | None
    student_accuracy: Interval | None
    retention: Interval | None
    loss: Interval | None
    classes: tuple[ClassRow, ...]
    reliability: tuple[tuple[int, float, float], ...]

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
    agree = chosen == followed
    means = _means(teacher, student, agree, seed)
    right = None if gold is None else (chosen == gold, followed == gold)
    accuracies = _accuracies(*right, seed=seed) if right else (None, None, None, None)
    return Gap(
        rows=len(teacher),
        agreement=wilson(int(agree.sum()), len(agree)),
        kl=means[0],
        calibration_error=means[1],
        teacher_accuracy=accuracies[0],
        student_accuracy=accuracies[1],
        retention=accuracies[2],
        loss=accuracies[3],
        classes=_per_class(chosen, followed, labels),
        reliability=_reliability(student.max(1), agree),
    )


def divergence(teacher: Floats, student: Floats) -> npt.NDArray[np.float64]:
    """Return KL(teacher ‖ student) of each row in nats, [N]; flooring both at 1e-4 keeps it finite."""
    p, q = (_floored(rows) for rows in (teacher, student))
    result: npt.NDArray[np.float64] = (p * np.log(p / q)).sum(axis=1)
    return result


def _floored(rows: Floats) -> npt.NDArray[np.float64]:
    floored = np.maximum(rows.astype(np.float64), _FLOOR)
    result: npt.NDArray[np.float64] = floored / floored.sum(axis=1, keepdims=True)
    return result


def _means(teacher: Floats, student: Floats, agree: npt.NDArray[np.bool_], seed: int) -> list[Interval]:
    columns = np.column_stack([divergence(teacher, student), binned_residuals(student.max(1), agree)])

    def statistics(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.stack([means[..., 0], np.abs(means[..., 1:]).sum(-1)], axis=-1)

    return paired_bootstrap(columns, statistics, seed=seed)


def _accuracies(
    teacher_right: npt.NDArray[np.bool_], student_right: npt.NDArray[np.bool_], seed: int
) -> tuple[Interval, Interval, Interval, Interval]:
    columns = np.column_stack([teacher_right, student_right]).astype(np.float64)

    def statistics(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        teacher, student = means[..., 0], means[..., 1]
        return np.stack([student / np.maximum(teacher, 1e-9), teacher - student], axis=-1)

    retention, loss = paired_bootstrap(columns, statistics, seed=seed)
    count = len(columns)
    return wilson(int(teacher_right.sum()), count), wilson(int(student_right.sum()), count), retention, loss


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


def _reliability(confidence: Floats, agree: npt.NDArray[np.bool_]) -> tuple[tuple[int, float, float], ...]:
    placed = confidence_bins(confidence)
    return tuple(
        (int(inside.sum()), float(confidence[inside].mean()), float(agree[inside].mean()))
        for inside in (placed == index for index in range(BINS))
        if inside.any()
    )
