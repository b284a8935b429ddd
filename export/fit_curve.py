"""How disagreement falls with confidence, fitted to validation rows: as a step function, or as a logistic curve.

A curve is given by its knots: confidences [M], increasing, and the disagreement at each, not increasing. Between knots
it is linear.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, minimize

from export.bundle.reference import Floats

Curve = Callable[[Floats, npt.NDArray[np.bool_]], tuple[Floats, Floats]]
"""Fits the knots to the confidence [N] of rows, and to where the student disagrees with its teacher [N]."""

_RIDGE = 0.05  # on the squared slope: where confidence separates the rows, the slope would be infinite
_LEAST = 1e-6  # distance of a confidence to 0 and 1
_KNOTS = 121


def isotonic(confidence: Floats, disagree: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Fit by isotonic regression, which assumes no shape.

    A stretch in which no row disagrees, or every row, gets Jeffreys' estimate (k + ½) / (n + 1) instead of its rate: a
    few rows do not promise that there is never a disagreement. All other stretches keep their rate, so that the mean
    stays that of the rows.
    """
    # Rows of equal confidence are one point, so that the fit does not depend on their order.
    distinct, place, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    observed = np.bincount(place, weights=disagree.astype(np.float64)) / counts
    return _ends(distinct, _steps(observed, counts))


def logistic(confidence: Floats, disagree: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Fit by logistic regression on the log-odds of confidence (Platt 1999).

    It has two parameters, so that few rows tell confidences apart that in an isotonic fit would share a step. That
    matters where the confidence is a sharp one, as of a student and its witness together, and a step function of few
    rows is not. Half a disagreement and half an agreement at the mean keep it finite, as in `isotonic`.
    """
    odds = _log_odds(confidence)
    centre, scale = float(odds.mean()), max(float(odds.std()), _LEAST)
    x = np.append((odds - centre) / scale, [0.0, 0.0])
    y = np.append(disagree.astype(np.float64), [0.0, 1.0])
    weight = np.append(np.ones(len(odds)), [0.5, 0.5])

    def loss(parameters: Floats) -> float:
        level, slope = parameters
        z = level + slope * x
        return float(weight @ (np.logaddexp(0.0, z) - y * z) + _RIDGE * slope**2)

    level, slope = minimize(loss, [0.0, 0.0], bounds=[(None, None), (None, 0.0)]).x
    knots = np.linspace(_log_odds(np.zeros(1))[0], _log_odds(np.ones(1))[0], _KNOTS)
    disagreement = 1.0 / (1.0 + np.exp(-(level + slope * (knots - centre) / scale)))
    return 1.0 / (1.0 + np.exp(-knots)), np.clip(disagreement, _LEAST, 1.0 - _LEAST)


def _log_odds(probability: Floats) -> Floats:
    inside = np.clip(probability, _LEAST, 1.0 - _LEAST)
    return np.asarray(np.log(inside / (1.0 - inside)))


def _steps(observed: Floats, counts: npt.NDArray[np.int64]) -> Floats:
    """Return the non-increasing fit to the rates `observed` of points with `counts` rows, in (0, 1)."""
    fit = isotonic_regression(observed, weights=counts, increasing=False)
    starts = fit.blocks[:-1]
    rows = np.add.reduceat(counts, starts)
    wrong = np.round(fit.x[starts] * rows)
    smoothed = (wrong + 0.5) / (rows + 1)
    blocks = np.where((wrong == 0) | (wrong == rows), smoothed, wrong / rows)
    # A smoothed stretch of few rows may lie above its neighbour, which then bounds it.
    return np.repeat(np.minimum.accumulate(blocks), np.diff(fit.blocks))


def _ends(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return the ends of each constant stretch of a step function: interpolation between them reproduces it."""
    change = np.flatnonzero(np.diff(y)) + 1
    first, last = np.concatenate([[0], change]), np.concatenate([change - 1, [len(y) - 1]])
    keep = np.unique(np.concatenate([first, last]))
    return x[keep], y[keep]
