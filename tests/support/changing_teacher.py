"""A simulated teacher of 77 classes, with noise of its own, whose classes can be changed; and anchors that it answers.

Noise is the rate at which two answers to one text differ. It may be spread over all texts as rare slips, or sit in a
few ambiguous ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.monitor.teacher_drift import TeacherDrift

CLASSES = 77
ANCHORS = 200
NOISES = {
    "none": ("rare", 0.0),
    "rare slips, 2 %": ("rare", 0.02),
    "rare slips, 5 %": ("rare", 0.05),
    "ambiguous texts, 2 %": ("ambiguous", 0.02),
    "ambiguous texts, 5 %": ("ambiguous", 0.05),
}


@dataclass
class ChangingTeacher:
    """A teacher that gives anchor i its label with probability `keeps[i]`, another one otherwise."""

    random: np.random.Generator
    labels: np.ndarray
    keeps: np.ndarray
    other: np.ndarray

    @classmethod
    def of(cls, kind: str, noise: float, seed: int) -> ChangingTeacher:
        random = np.random.default_rng(seed)
        labels = np.arange(ANCHORS) % CLASSES
        # Two draws of a text with probabilities p and 1 - p differ with probability 2 p (1 - p).
        rare = np.full(ANCHORS, (1 + np.sqrt(1 - 2 * noise)) / 2)
        keeps = rare if kind == "rare" else np.where(random.random(ANCHORS) < 2 * noise, 0.5, 1.0)
        return cls(random, labels, keeps, (labels + 1 + random.integers(0, CLASSES - 1, ANCHORS)) % CLASSES)

    def draw(self, index: int) -> int:
        return int((self.labels if self.random.random() < self.keeps[index] else self.other)[index])

    def change(self, classes: int) -> None:
        """Give all anchors of some classes another label."""
        gone = self.random.choice(CLASSES, classes, replace=False)
        self.labels = np.where(np.isin(self.labels, gone), (self.labels + 38) % CLASSES, self.labels)

    def recorded(self) -> list[int]:
        return [self.draw(index) for index in range(ANCHORS)]

    def ask_round(self, drift: TeacherDrift) -> float:
        """Ask about every anchor once, and return the log e-value."""
        for index in range(ANCHORS):
            while drift.add(index, self.draw(index)):
                pass
        return drift.log_evalue()
