"""Live counts per band: what reports and counters of Prometheus show of the cells."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from service.shadow.outcome import OUTCOMES

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Totals:
    """Counts and sums per band, shape [B]; `outcomes` has shape [B, outcome].

    `requests` and `expected` (the sum of expected disagreement) cover all requests for which a coin was tossed. None
    was for those that were `deferred`, which the teacher answered itself. The sums of weights (1 / propensity) and of
    divergences cover completed comparisons.
    """

    requests: Floats
    expected: Floats
    deferred: Floats
    sampled: Floats
    outcomes: Floats
    agreed: Floats
    disagreed: Floats
    weight: Floats
    weight_sq: Floats
    disagree_weight: Floats
    kl: Floats
    kl_sq: Floats
    js: Floats
    js_sq: Floats
    cost_usd: Floats
    tokens: Floats
    decision_agreed: Floats
    decision_disagreed: Floats

    @classmethod
    def zeros(cls, bands: int) -> Self:
        """Return totals with every count at zero."""
        shapes = {item.name: (bands, len(OUTCOMES)) if item.name == "outcomes" else (bands,) for item in fields(cls)}
        return cls(**{name: np.zeros(shape) for name, shape in shapes.items()})

    @property
    def compared(self) -> Floats:
        """Completed comparisons per band, n_b."""
        return self.agreed + self.disagreed
