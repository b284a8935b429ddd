"""Accuracy against gold labels: a teacher and a student on the same rows, and whether they differ beyond chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from distill.evaluation.intervals import Interval, paired_bootstrap, wilson

Classes = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's exact test of equal accuracy: the rows that one of two classifiers alone is right on.

    `p_value` is two-sided: how probable so unequal numbers are if both classifiers are equally good.
    """

    teacher_only: int
    student_only: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Accuracies:
    """The accuracies and macro-F1 of a teacher and a student against gold labels.

    `retention` is the student's accuracy over the teacher's, and `loss` the teacher's minus the student's.
    """

    teacher: Interval
    student: Interval
    retention: Interval
    loss: Interval
    teacher_macro_f1: Interval
    student_macro_f1: Interval
    mcnemar: McNemar


def accuracies(teacher: Classes, student: Classes, gold: Classes, *, seed: int = 0) -> Accuracies:
    """Compare the classes [N] that a teacher and a student chose with gold classes [N]; N is at least 1."""
    rights = teacher == gold, student == gold
    retention, loss = paired_bootstrap(np.column_stack(rights).astype(np.float64), _retention_and_loss, seed=seed)
    return Accuracies(
        wilson(int(rights[0].sum()), len(gold)),
        wilson(int(rights[1].sum()), len(gold)),
        retention,
        loss,
        macro_f1(teacher, gold, seed=seed),
        macro_f1(student, gold, seed=seed),
        mcnemar(*rights),
    )


def macro_f1(chosen: Classes, gold: Classes, *, seed: int = 0) -> Interval:
    """Return the mean F1 over the classes that occur in `chosen` or `gold`, both [N], with a bootstrap interval.

    A class that a resample lacks is left out of its mean.
    """
    classes = np.union1d(chosen, gold)
    said, true = chosen[:, None] == classes, gold[:, None] == classes
    columns = np.concatenate([said & true, said.astype(np.int8) + true], axis=1).astype(np.float64)

    def statistics(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        hits, total = np.split(means, 2, axis=-1)
        scores = 2 * hits / np.where(total > 0, total, 1)
        means_of_f1: npt.NDArray[np.float64] = scores.sum(-1, keepdims=True) / (total > 0).sum(-1, keepdims=True)
        return means_of_f1

    (interval,) = paired_bootstrap(columns, statistics, seed=seed)
    return interval


def mcnemar(teacher_right: Flags, student_right: Flags) -> McNemar:
    """Test whether two classifiers are right equally often, given on which rows [N] each is (McNemar 1947)."""
    teacher_only = int((teacher_right & ~student_right).sum())
    student_only = int((student_right & ~teacher_right).sum())
    either = teacher_only + student_only
    return McNemar(teacher_only, student_only, float(binomtest(teacher_only, either).pvalue) if either else 1.0)


def _retention_and_loss(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    teacher, student = means[..., 0], means[..., 1]
    return np.stack([student / np.maximum(teacher, 1e-9), teacher - student], axis=-1)
