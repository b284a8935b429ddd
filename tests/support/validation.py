"""Validation splits of students whose disagreement is known: what the reference and its ceilings are fitted to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.bundle.reference import Reference

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Student:
    """How often a student has which top probability, and how often it disagrees with its teacher there."""

    confidences: Callable[[np.random.Generator, int], Floats]
    truth: Callable[[Floats], Floats]

    def rows(self, seed: int, count: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the top probabilities of `count` rows, and where it disagrees."""
        generator = np.random.default_rng(seed)
        top = self.confidences(generator, count)
        return top, generator.random(count) < self.truth(top)


def _usual(generator: np.random.Generator, count: int) -> Floats:
    """Most near 1, some far below."""
    return np.asarray(1 - 0.8 * generator.beta(0.4, 2.5, size=count))


def _sure(generator: np.random.Generator, count: int) -> Floats:
    """A third within 0.004 of 1, as in the simulations of the live gap."""
    return np.asarray(1 - np.clip(generator.beta(0.18, 3.4, size=count), 1e-4, 0.5))


STUDENTS = {
    "sure": Student(_sure, lambda top: 1 - top),  # a gap of 4.9 %
    "calibrated": Student(_usual, lambda top: (1 - top) * 0.7),  # 7.7 %
    "overconfident": Student(_usual, lambda top: 0.03 + (1 - top) * 0.5),  # 8.5 %
    "hard": Student(_usual, lambda top: np.minimum((1 - top) * 1.2, 0.95)),  # 13.2 %, above a half where it is unsure
    "constant": Student(_usual, lambda top: np.full(len(top), 0.1)),
    "step": Student(_usual, lambda top: np.where(top > 0.9, 0.001, 0.4)),  # 14.6 %
}


def expected(reference: Reference, top: Floats) -> Floats:
    """Return the expected disagreement at each top probability."""
    return np.interp(top, reference.confidence, reference.disagreement)
