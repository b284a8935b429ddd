"""Self-agreement: how often a teacher gives the same answer to the same question twice, and the bound that follows.

Where two answers differ, a student agrees with one of them at best. So the expected agreement of any student with a
teacher that agrees with itself on a share s of texts is at most (1 + s) / 2, even if the draws are correlated. Pure
mathematics; `distill.labelling.audit` asks the teacher.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.evaluation.intervals import Interval, paired_bootstrap, wilson

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class SelfAgreement:
    """Two draws of a teacher's answers to N rows.

    `agreement` is the share of rows with the same first choice, `variation` the mean total variation between the two
    distributions, in [0, 1], and `ceiling` the bound on the agreement of any student. `by_construction` says that
    nothing was asked, since this teacher always gives the same answer.
    """

    rows: int
    agreement: Interval
    variation: Interval
    ceiling: Interval
    by_construction: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the measure as JSON values."""
        return asdict(self)


CONSTANT = SelfAgreement(0, Interval(1.0, 1.0, 1.0), Interval(0.0, 0.0, 0.0), Interval(1.0, 1.0, 1.0), True)
"""The measure of a teacher that always gives the same answer."""


def self_agreement(first: Floats, second: Floats, *, seed: int = 0) -> SelfAgreement:
    """Compare two draws, both [N, K] with N at least 1. Raises ValueError when their shapes differ."""
    if first.shape != second.shape or first.ndim != 2 or len(first) == 0:
        raise ValueError(f"expected two arrays [N, K] of one shape, got {first.shape} and {second.shape}")
    same = first.argmax(1) == second.argmax(1)
    distance = np.abs(first.astype(np.float64) - second).sum(axis=1, keepdims=True) / 2
    (variation,) = paired_bootstrap(distance, lambda means: means, seed=seed)
    agreement = wilson(int(same.sum()), len(same))
    ceiling = Interval(*((1 + end) / 2 for end in (agreement.value, agreement.lower, agreement.upper)))
    return SelfAgreement(len(same), agreement, variation, ceiling)
