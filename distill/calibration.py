"""Whether probabilities mean what they say, and one number that makes them: temperature scaling (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Floats = npt.NDArray[np.floating]

_RANGE = (0.05, 20.0)


def fit_temperature(logits: Floats, targets: Floats) -> float:
    """The T in [0.05, 20] that minimises the cross-entropy of softmax(logits / T) with `targets`.

    `logits` and `targets` are [N, K]; a row of `targets` is a distribution (one-hot for gold labels).
    """
    scores = logits.astype(np.float64)

    def cross_entropy(log_temperature: float) -> float:
        return float(-(targets * log_softmax(scores / np.exp(log_temperature), axis=1)).sum(axis=1).mean())

    found = minimize_scalar(cross_entropy, bounds=tuple(np.log(_RANGE)), method="bounded")
    return float(np.exp(found.x))


def one_hot(classes: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.float64]:
    """Classes [N] as rows of certainty [N, K]."""
    rows: npt.NDArray[np.float64] = np.eye(count)[classes]
    return rows


def confidence_bins(confidence: Floats, bins: int = 15) -> npt.NDArray[np.intp]:
    """The equal-width bin, in [0, bins), of each confidence in [0, 1]."""
    placed: npt.NDArray[np.intp] = np.minimum((confidence * bins).astype(np.intp), bins - 1)
    return placed


def expected_calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Mean |accuracy − confidence| over equal-width bins, weighted by their rows (Naeini et al. 2015). In [0, 1]."""
    placed = confidence_bins(confidence, bins)
    difference = np.bincount(placed, weights=correct.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(difference).sum() / len(confidence))
