"""The course of a training: the loss and the score of each epoch, and the weights of the best one."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn


@dataclass(frozen=True, slots=True)
class History:
    """The mean loss and the validation score of each epoch, and `best`, the epoch (from 0) that was kept."""

    losses: tuple[float, ...]
    scores: tuple[float, ...]
    best: int


@dataclass(slots=True)
class Course:
    """The epochs so far. `weights` are those of the last epoch with the best score."""

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)

    def add(self, loss: float, score: float, module: nn.Module) -> None:
        """Add an epoch, after which a module has these weights."""
        self.losses.append(loss)
        self.scores.append(score)
        if score >= max(self.scores):
            self.weights = copy.deepcopy(module.state_dict())

    def ended(self, epochs: int, patience: int) -> bool:
        """Whether there were enough epochs, or `patience` of them, if that is not 0, brought no better score."""
        done = len(self.scores)
        return done >= epochs or bool(patience and done and done - 1 - int(np.argmax(self.scores)) >= patience)

    def history(self) -> History:
        """Return the record of the training."""
        best = max(epoch for epoch, score in enumerate(self.scores) if score == max(self.scores))
        return History(tuple(self.losses), tuple(self.scores), best)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return {"losses": self.losses, "scores": self.scores, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another course was."""
        self.losses, self.scores, self.weights = state["losses"], state["scores"], state["weights"]
