"""From a prediction to scores: which numbers, how they are rounded, and in which order."""

from __future__ import annotations

from typing import Literal

import numpy as np
from typing_extensions import TypedDict

from export.bundle.classifier import Floats, Prediction
from service.errors import InferenceFailedError

DIGITS = 6

Activation = Literal["softmax", "sigmoid", "none"]


class Scored(TypedDict):
    """A label and its score: its calibrated probability, unless the request asks for another activation."""

    label: str
    score: float


def activated(prediction: Prediction, activation: Activation) -> Floats:
    """Return one number per label, in the order of the bundle's labels.

    `softmax` gives the bundle's calibrated probabilities, `none` the logits, `sigmoid` the sigmoid of each logit.
    """
    if activation == "softmax":
        return prediction.probabilities
    if activation == "none":
        return prediction.logits
    probabilities: Floats = 0.5 * (1 + np.tanh(0.5 * prediction.logits))  # 1 / (1 + exp(-x)) could overflow
    return probabilities


def finite(values: Floats) -> Floats:
    """Return `values`. Raises InferenceFailedError if one is not finite."""
    if not np.isfinite(values).all():
        raise InferenceFailedError("the graph returned values that are not numbers")
    return values


def rounded(values: Floats) -> list[float]:
    """Return values rounded for JSON. Raises InferenceFailedError if one is not finite."""
    numbers: list[float] = np.round(finite(values).astype(np.float64), DIGITS).tolist()
    return numbers


def order(values: Floats, top_k: int | None = None) -> list[int]:
    """Return the indices of the `top_k` largest values, or of all, in descending order; ties keep their order."""
    indices: list[int] = np.argsort(-values, kind="stable")[:top_k].tolist()
    return indices


def ranked(labels: tuple[str, ...], values: Floats, top_k: int | None = None) -> list[Scored]:
    """Return the `top_k` best labels, or all, with their scores in descending order."""
    scores = rounded(values)
    return [{"label": labels[index], "score": scores[index]} for index in order(values, top_k)]
