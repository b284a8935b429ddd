"""Confidence bands: how often the requests of each band are sampled for the teacher.

A band is an interval of `d`, the calibrated probability that the student disagrees with the teacher. With one sampling
probability per band, the live gap can be computed from plain counters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEAST = 1e-3  # of the largest spread
_HALVINGS = 80


def propensities(rate: float, share: Floats, spread: Floats, floor: float = 0.46, minimum: float = 0.0) -> Floats:
    """Return the probability that a request of each band is sent to the teacher, shape [B].

    π_b = clip(c · s_b, floor · rate, 1), with c such that Σ_b W_b π_b = rate. Without the floor this is the Neyman
    allocation, which samples in proportion to the standard deviation of the measured quantity and has the smallest
    variance of all that cost as much (Neyman 1934; Zrnic and Candès, arXiv 2403.03208). But its spread is what the
    student's confidence expects, and few confident answers would be sampled: the floor catches confident mistakes, and
    bounds every weight 1 / π_b by 1 / (floor · rate). At 0.46 the error is 0.65 times that of a uniform sample of as
    many comparisons while the confidence is right, and at most 1.09 times when 4 % of the traffic is confidently wrong.
    No other allocation to ten such bands is noticeably better at one without being worse at the other
    (`benchmarks/gap.py`). If only the surest answers were ever wrong, it would be up to 1 / √floor = 1.5 times.

    - `rate`: wanted share of all requests, in (0, 1]. It is met exactly unless `minimum` raises a band.
    - `share` [B]: share of the traffic in each band, W_b; sums to 1.
    - `spread` [B]: s_b = √(mean of d (1 − d)) in each band, ≥ 0. All zero means a uniform sample.
    - `floor`: the least probability, in units of `rate`, in (0, 1]. 1 means a uniform sample.
    - `minimum`: least probability, in [0, 1], whatever the rate.

    Raises ValueError if an argument is outside its range.
    """
    for name, value in (("rate", rate), ("floor", floor)):
        if not 0.0 < value <= 1.0:
            raise ValueError(f"{name} must be in (0, 1], got {value}")
    if not 0.0 <= minimum <= 1.0:
        raise ValueError(f"minimum must be in [0, 1], got {minimum}")
    share, spread = _per_band("share", share), _per_band("spread", spread)
    if share.shape != spread.shape:
        raise ValueError(f"share and spread must have equal length, got {share.size} and {spread.size}")
    if abs(share.sum() - 1.0) > 1e-6:
        raise ValueError(f"share must sum to 1, got {share.tolist()}")

    # A band of no spread would stay at the floor, however high the rate.
    relative = np.maximum(spread, _LEAST * spread.max()) if spread.any() else np.ones_like(spread)
    low, high = 0.0, 1.0 / relative.min()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        met = share @ np.clip(middle * relative, floor * rate, 1.0)
        low, high = (middle, high) if met < rate else (low, middle)
    return np.asarray(np.clip(high * relative, max(floor * rate, minimum), 1.0))


def _per_band(name: str, values: Floats) -> Floats:
    """Return `values` as one finite number ≥ 0 per band."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.all((array >= 0.0) & np.isfinite(array)):
        raise ValueError(f"{name} must hold one finite number >= 0 per band, got {array.tolist()}")
    return array
