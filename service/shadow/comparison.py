"""Compares a student's answer with its teacher's: agreement and divergences of two distributions."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from export.bundle.decision import Decision

FLOOR = 1e-4
KL_LIMIT = 10.0  # nats; bounds the effect of one answer on a mean
JS_LIMIT = math.log(2)


class Comparison(NamedTuple):
    """The agreement and the divergences of a student's answer and its teacher's.

    `agree` is whether both put the same label first. `kl` is KL(teacher ‖ student) in [0, 10] nats, with the student's
    probabilities floored at 1e-4; for a teacher that gives only a label it is the cross-entropy. `js` is the
    Jensen–Shannon divergence in [0, ln 2] nats. The classes are those put first, as positions in [0, K).
    `decision_agree` is whether the bundle's decision is the same for both, None for a bundle without one.
    """

    agree: bool
    kl: float
    js: float
    student_class: int
    teacher_class: int
    decision_agree: bool | None = None


def compare(
    student: npt.ArrayLike, teacher: npt.ArrayLike, decision: Decision | None = None, novel: bool | None = None
) -> Comparison:
    """Compare two distributions, each [K], over the same labels in the same order.

    Whether the text is `novel` is a property of the text: the rule leaves it to a human whoever would answer it.
    """
    p, q = np.asarray(student, dtype=np.float64), np.asarray(teacher, dtype=np.float64)
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    student_class, teacher_class = int(p.argmax()), int(q.argmax())
    same = None
    if decision is not None:
        same = bool(np.equal(*(decision.choose(np.asarray(answer), novel) for answer in (student, teacher))))
    return Comparison(
        agree=student_class == teacher_class,
        kl=min(max(_relative_entropy(q, np.maximum(p, FLOOR)), 0.0), KL_LIMIT),
        js=min(max((_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2, 0.0), JS_LIMIT),
        student_class=student_class,
        teacher_class=teacher_class,
        decision_agree=same,
    )


def _relative_entropy(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """Return Σ p ln(p / q) in nats, where 0 ln 0 is 0."""
    counted = p > 1e-300  # smaller terms add nothing and could underflow
    return float(p[counted] @ np.log(p[counted] / q[counted]))
