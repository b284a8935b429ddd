"""From a prediction to scores: which numbers, rounded how, in which order. Nothing here knows of a protocol."""

from __future__ import annotations

from typing import Literal

import numpy as np
from typing_extensions import TypedDict

from export.bundle.classifier import Floats, Prediction
from service.errors import InferenceFailedError

DIGITS = 6

Activation = Literal["softmax", "sigmoid", "none"]


class Scored(TypedDict):
    """A label and its score: a calibrated probability, unless something else was asked for."""

    label: str
    score: float


def activated(prediction: Prediction, activation: Activation) -> Floats:
    """One number per label, in the order of the bundle's labels.

    `softmax` is the bundle's calibrated probabilities, `none` the logits, `sigmoid` that of each logit.
    """
    if activation == "softmax":
        return prediction.probabilities
    if activation == "none":
        return prediction.logits
    probabilities: Floats = 0.5 * (1 + np.tanh(0.5 * prediction.logits))  # 1 / (1 + exp(-x)) could overflow
    return probabilities


def finite(values: Floats) -> Floats:
    """The same values. Raises InferenceFailedError when one is not a number."""
    if not np.isfinite(values).all():
        raise InferenceFailedError("the graph returned values that are not numbers")
    return values


def rounded(values: Floats) -> list[float]:
    """Numbers for JSON. Raises InferenceFailedError as `finite` does."""
    numbers: list[float] = np.round(finite(values).astype(np.float64), DIGITS).tolist()
    return numbers


def order(values: Floats, top_k: int | None = None) -> list[int]:
    """The indices of the `top_k` largest values, or of all, best first; of equals the first."""
    indices: list[int] = np.argsort(-values, kind="stable")[:top_k].tolist()
    return indices


def ranked(labels: tuple[str, ...], values: Floats, top_k: int | None = None) -> list[Scored]:
    """The `top_k` best labels with their scores, or all of them."""
    scores = rounded(values)
    return [{"label": labels[index], "score": scores[index]} for index in order(values, top_k)]
