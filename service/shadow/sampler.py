"""The sampler: assigns an answer to its confidence band and decides at random whether the teacher sees it.

Each band has one fixed sampling probability, so that the gap can be estimated from plain counters. The random numbers
never depend on the text: equal texts are sampled independently, and no client can predict what is sampled.
"""

from __future__ import annotations

import math
import os
from random import Random

from export.bundle.reference import Reference
from service.monitor.bands import propensities


class Sampler:
    """Samples a share `rate` of all answers; `propensity` holds the sampling probability π_b of each band."""

    def __init__(self, reference: Reference, rate: float, random: Random | None = None) -> None:
        minimum = 1.0 if rate == 1.0 else 0.0  # at a rate of 1, every band must be sampled in full
        probabilities = propensities(rate, reference.share, reference.spread, minimum=minimum)
        self.propensity: tuple[float, ...] = tuple(probabilities.tolist())
        self._reference = reference
        self._random = (random or Random(os.urandom(32))).random

    def place(self, score: float) -> tuple[int, float]:
        """Return the band of an answer with this `score`, and its expected disagreement in (0, 1).

        Raises ValueError if `score` is not finite.
        """
        if not math.isfinite(score):
            raise ValueError("an answer's score must be a number")
        expected = self._reference.expected_disagreement(score)
        return self._reference.band(expected), expected

    def draw(self, band: int) -> bool:
        """Return True with probability π_b: whether this request goes to the teacher."""
        return self._random() < self.propensity[band]
