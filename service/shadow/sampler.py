"""The sampler: which confidence band an answer is in, and the coin that decides whether the teacher sees it.

One fixed probability per band, so that the gap can be had from plain counters. The coin comes from a private random
number generator, never from the text: equal texts must not share a fate, and nobody can aim past it.
"""

from __future__ import annotations

import math
import os
from random import Random

from export.bundle.reference import Reference
from service.monitor.bands import propensities


class Sampler:
    """Places answers into the bands of a reference and samples `rate` of them. `propensity` is π_b, one per band."""

    def __init__(self, reference: Reference, rate: float, random: Random | None = None) -> None:
        # At a rate of 1 no band can make up for what another is spared.
        minimum = 1.0 if rate == 1.0 else 0.0
        probabilities = propensities(rate, reference.share, reference.spread, minimum=minimum)
        self.propensity: tuple[float, ...] = tuple(probabilities.tolist())
        self._reference = reference
        self._draw = (random or Random(os.urandom(32))).random

    def place(self, score: float) -> tuple[int, float]:
        """Return the band of an answer with this score, and its expected disagreement in [1e-4, 0.5].

        Raises ValueError on NaN.
        """
        if not math.isfinite(score):
            raise ValueError("an answer's score must be a number")
        expected = self._reference.expected_disagreement(score)
        return self._reference.band(expected), expected

    def toss(self, band: int) -> bool:
        """Tell whether this request goes to the teacher: true with probability π_b."""
        return self._draw() < self.propensity[band]
