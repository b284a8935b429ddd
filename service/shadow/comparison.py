"""How far a student's answer is from its teacher's: pure mathematics on two distributions over the same labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FLOOR = 1e-4
KL_LIMIT = 10.0  # nats; bounds what one answer can do to a mean
JS_LIMIT = math.log(2)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far one answer is from the teacher's.

    `agree` says that both put the same label first; `kl` is KL(teacher ‖ student) in [0, 10] nats, with the student's
    probabilities floored at 1e-4; `js` is the Jensen–Shannon divergence in [0, ln 2]. With a teacher that names a
    label alone, `kl` is the cross-entropy.
    """

    agree: bool
    kl: float
    js: float


def compare(student: npt.ArrayLike, teacher: npt.ArrayLike) -> Comparison:
    """Compare probabilities [K] with probabilities [K] of the same labels in the same order."""
    p, q = np.asarray(student, dtype=np.float64), np.asarray(teacher, dtype=np.float64)
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    return Comparison(
        agree=bool(p.argmax() == q.argmax()),
        kl=min(max(_relative_entropy(q, np.maximum(p, FLOOR)), 0.0), KL_LIMIT),
        js=min(max((_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2, 0.0), JS_LIMIT),
    )


def _relative_entropy(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """Σ p ln(p / q), where 0 ln 0 is 0."""
    held = p > 1e-300  # less adds nothing, and could underflow on the way
    return float(p[held] @ np.log(p[held] / q[held]))
