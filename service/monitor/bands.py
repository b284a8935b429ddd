"""Confidence bands: how often the requests of each band are sampled for the teacher.

A band is an interval of `d`, the calibrated probability that the student disagrees with the teacher. With one sampling
probability per band, the live gap can be computed from plain counters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def propensities(
    rate: float,
    share: Floats,
    spread: Floats,
    tau: float = 0.3,
    minimum: float = 0.0,
) -> Floats:
    """Return the probability that a request of each band is sent to the teacher, shape [B].

    π_b = clip(rate · (τ + (1 − τ) · s_b / Σ_k W_k s_k), minimum, 1): a mixture of a uniform sample and the
    Neyman allocation, which samples in proportion to the standard deviation of the measured quantity (Neyman 1934;
    Zrnic and Candès, arXiv 2403.03208). The uniform part catches confident mistakes, which pure uncertainty sampling
    rarely sees, and bounds every weight 1 / π_b by 1 / (rate · τ).

    - `rate`: wanted share of all requests, in (0, 1]. It is met exactly when the clip changes nothing.
    - `share` [B]: share of the traffic in each band, W_b; sums to 1.
    - `spread` [B]: s_b = √(mean of d (1 − d)) in each band, ≥ 0. All zero means a uniform sample.
    - `tau`: the uniform part, in (0, 1].
    - `minimum`: floor of every probability, in [0, 1].

    Raises ValueError if an argument is outside its range.
    """
    for name, value in (("rate", rate), ("tau", tau)):
        if not 0.0 < value <= 1.0:
            raise ValueError(f"{name} must be in (0, 1], got {value}")
    if not 0.0 <= minimum <= 1.0:
        raise ValueError(f"minimum must be in [0, 1], got {minimum}")
    share, spread = _per_band("share", share), _per_band("spread", spread)
    if share.shape != spread.shape:
        raise ValueError(f"share and spread must have equal length, got {share.size} and {spread.size}")
    if abs(share.sum() - 1.0) > 1e-6:
        raise ValueError(f"share must sum to 1, got {share.tolist()}")

    pooled = float(share @ spread)
    relative = spread / pooled if pooled > 0.0 else np.ones_like(spread)
    return np.clip(rate * (tau + (1.0 - tau) * relative), minimum, 1.0)


def _per_band(name: str, values: Floats) -> Floats:
    """Return `values` as one finite number ≥ 0 per band."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.all((array >= 0.0) & np.isfinite(array)):
        raise ValueError(f"{name} must hold one finite number >= 0 per band, got {array.tolist()}")
    return array
