"""Fit the reference of a bundle, offline: how often the student disagrees with its teacher, by confidence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression
from scipy.stats import beta

from export.bundle.reference import Floats, Reference

BAND_EDGES = (0.004, 0.02, 0.1, 0.3)
CLIP = (1e-4, 0.5)


def fit_reference(top: Floats, disagree: npt.NDArray[np.bool_], edges: tuple[float, ...] = BAND_EDGES) -> Reference:
    """Fit the reference from N validation rows: the student's top probabilities [N], and where it disagrees [N].

    Disagreement is calibrated against confidence by isotonic regression. The null of a band is the Clopper–Pearson
    upper bound at level 0.05/B, so that all hold at once, plus a tolerance of max(0.005, a quarter of the rate).
    """
    # Rows of equal confidence are one point, so that the fit does not depend on their order.
    distinct, place, counts = np.unique(top, return_inverse=True, return_counts=True)
    observed = np.bincount(place, weights=disagree.astype(np.float64)) / counts
    fitted = isotonic_regression(observed, weights=counts, increasing=False).x
    # The clip keeps a perfect validation split from promising that there is never a disagreement.
    confidence, disagreement = _knots(distinct, np.clip(fitted, *CLIP))
    expected = np.interp(top, confidence, disagreement)
    band = np.searchsorted(np.array(edges), expected, side="right")
    bands = len(edges) + 1
    rows = np.bincount(band, minlength=bands).astype(np.float64)
    wrong: Floats = np.bincount(band, weights=disagree.astype(np.float64), minlength=bands).astype(np.float64)
    rate = wrong / np.maximum(rows, 1)
    variance = np.bincount(band, weights=expected * (1 - expected), minlength=bands) / np.maximum(rows, 1)
    upper = beta.ppf(1 - 0.05 / bands, wrong + 1, np.maximum(rows - wrong, 1e-9))
    upper = np.where((rows > 0) & (wrong < rows), upper, 1.0)
    # A band without validation rows gets the largest spread that its edges allow.
    highest = np.minimum([*edges, 1.0], CLIP[1])
    return Reference(
        confidence=confidence,
        disagreement=disagreement,
        edges=np.array(edges),
        share=rows / rows.sum(),
        spread=np.sqrt(np.where(rows > 0, variance, highest * (1 - highest))),
        null=np.minimum(upper + np.maximum(0.005, 0.25 * rate), 1.0),
        rows=rows,
        disagreements=wrong,
    )


def _knots(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return the ends of each constant stretch of a step function: interpolation between them reproduces it."""
    change = np.flatnonzero(np.diff(y)) + 1
    first, last = np.concatenate([[0], change]), np.concatenate([change - 1, [len(y) - 1]])
    keep = np.unique(np.concatenate([first, last]))
    return x[keep], y[keep]
