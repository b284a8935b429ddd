"""Ceilings of disagreement: the most that each confidence band is allowed, from counts of comparisons with the teacher.

The counts are those of the validation split at export, and once more those of the first live comparisons. numpy alone.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ERROR = 0.05  # chance that the ceiling of any band is too low
SELECTION = 0.002  # added to a bound: the bands are cut by a curve that was fitted to the same rows
ABSOLUTE, RELATIVE = 0.005, 0.25  # the rise over the observed rate that is tolerated in any case

_HALVINGS = 50  # of an interval in [0, 1], down to the precision of a float


def upper_bound(disagreements: float, rows: float, error: float) -> float:
    """Return the Clopper–Pearson upper bound of a rate: it is below the truth with probability `error` at most.

    The p with P(Binomial(rows, p) ≤ disagreements) = error (Clopper and Pearson, 1934); 1 if every row disagrees, or
    there is none. Raises ValueError if 0 ≤ disagreements ≤ rows or 0 < error < 1 does not hold.
    """
    if not 0 <= disagreements <= rows:
        raise ValueError(f"disagreements must be from 0 to {rows:g}, got {disagreements:g}")
    if not 0 < error < 1:
        raise ValueError(f"error must be in (0, 1), got {error}")
    if disagreements == rows:
        return 1.0
    count = np.arange(int(disagreements) + 1)
    choose = np.concatenate([[0.0], np.log((rows - count[1:] + 1) / count[1:]).cumsum()])
    # For every p from disagreements / rows on, the probabilities of lower counts are below e^-50 of the last one.
    most = 10 * math.isqrt(int(disagreements)) + 11
    count, choose = count[-most:], choose[-most:]
    low, high = disagreements / rows, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tail = np.exp(choose + count * np.log(middle) + (rows - count) * np.log1p(-middle)).sum()
        low, high = (middle, high) if tail > error else (low, middle)
    return high


def ceilings(disagreements: Floats, rows: Floats) -> Floats:
    """Return the ceiling of each band, in (0, 1], from `disagreements` among `rows`, both [B], most confident first.

    The larger of two: the upper bound of the rate at level 0.05/B plus 0.002, so that all ceilings hold at once in 95 %
    of cases; and the observed rate plus a tolerance of max(0.005, a quarter of it). Disagreement falls with confidence,
    so a ceiling also holds for every more confident band, and no ceiling is above that of a less confident band with
    rows. A band without rows thus has the ceiling of its next less confident neighbour that has some, or else that of
    the next more confident. Without any row, all are 1.
    """
    error = ERROR / len(rows)
    bound = np.array([upper_bound(*counts, error) for counts in zip(disagreements, rows, strict=True)])
    rate = disagreements / np.maximum(rows, 1)
    known = rows > 0
    if not known.any():
        return np.ones(len(rows))
    allowed = np.maximum(bound + SELECTION, rate + np.maximum(ABSOLUTE, RELATIVE * rate))
    falling = np.minimum.accumulate(np.where(known, allowed, np.inf)[::-1])[::-1]
    last = falling[np.flatnonzero(known)[-1]]
    return np.minimum(np.where(np.isfinite(falling), falling, last), 1.0)


def tightened(null: Floats, disagreements: Floats, compared: Floats) -> Floats:
    """Return the ceilings `null` [B], lowered to what `disagreements` among `compared` [B] live comparisons allow.

    Validation splits are small, so that their ceilings are far above what the student does; a thousand comparisons of
    its own traffic bound it better. No ceiling rises, however bad these comparisons were.
    """
    return np.minimum(null, ceilings(disagreements, compared))
