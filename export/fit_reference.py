"""Fit the reference of a bundle, offline: how often the student disagrees with its teacher, by confidence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from export.bundle.ceilings import ceilings
from export.bundle.reference import Floats, Reference
from export.fit_curve import Curve, isotonic

TOLERATED_RATIO = 1.5
"""Ceilings that tolerate more than this multiple of the gap on validation are warned about."""

BAND_EDGES = (0.001, 0.004, 0.01, 0.02, 0.05, 0.1, 0.17, 0.25, 0.35)


def fit_reference(
    top: Floats,
    disagree: npt.NDArray[np.bool_],
    edges: tuple[float, ...] = BAND_EDGES,
    curve: Curve = isotonic,
    *,
    kept: npt.NDArray[np.bool_] | None = None,
) -> Reference:
    """Fit the reference from N validation rows: the student's top probabilities [N], and where it disagrees [N].

    Disagreement is calibrated against confidence by `curve`, on all rows. Bands, ceilings and the SLO count the rows
    that are `kept` [N], by default all: what the student leaves to the teacher is not its own answer.
    """
    confidence, disagreement = curve(top, disagree)
    if kept is not None:
        top, disagree = top[kept], disagree[kept]
    expected = np.interp(top, confidence, disagreement)
    band = np.searchsorted(np.array(edges), expected, side="right")
    bands = len(edges) + 1
    rows = np.bincount(band, minlength=bands).astype(np.float64)
    wrong: Floats = np.bincount(band, weights=disagree.astype(np.float64), minlength=bands).astype(np.float64)
    variance = np.bincount(band, weights=expected * (1 - expected), minlength=bands) / np.maximum(rows, 1)
    # A band without validation rows gets the largest spread that its edges allow.
    highest = np.minimum([*edges, 1.0], 0.5)
    return Reference(
        confidence=confidence,
        disagreement=disagreement,
        edges=np.array(edges),
        share=rows / rows.sum(),
        spread=np.sqrt(np.where(rows > 0, variance, highest * (1 - highest))),
        null=ceilings(wrong, rows),
        rows=rows,
        disagreements=wrong,
    )


def ceiling_warning(name: str, reference: Reference) -> str | None:
    """Return a warning if the ceilings of student `name` tolerate more than 1.5 times its gap on validation.

    There is none while they tolerate no more than the SLO, which is tested on its own.
    """
    if reference.tolerated <= max(TOLERATED_RATIO * reference.gap, reference.slo):
        return None
    return (
        f"{name}: with {reference.rows.sum():.0f} validation rows, the ceilings of its confidence bands tolerate a "
        f"live gap of {100 * reference.tolerated:.1f} %, where that on validation is {100 * reference.gap:.1f} %; a "
        "rise within a band will be noticed late. More validation rows lower the ceilings, and the first 1,000 live "
        "comparisons will"
    )
