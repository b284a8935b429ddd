"""Decide whether live inputs differ from those of the reference by more than chance and a tolerance.

Every test compares n live requests with M reference texts and knows both sample sizes. It has a tolerance, so that a
difference too small to matter is no drift however many requests show it; a design effect, because requests that come
together resemble each other; and a false-alarm probability, shared by all tests that are done at once. A statistic
above its threshold is drift. Drift is a reason to look; the gap tells whether it harms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FALSE_ALARMS = 1e-4
"""Probability that undrifted inputs raise any of the tests that are done at once."""

DESIGN_EFFECT = 1.25
"""Variance of a sum over live requests, relative to that of independent ones."""

MEAN_TOLERANCE = 0.0025
"""Largest difference of a mean expected disagreement that is no drift: a quarter of a point."""

DISTANCE_TOLERANCE = 0.0025
"""Largest squared distance of two distributions that is no drift, in units of their variance: for shares of bins
Σ (p − q)² / q, about what the PSI is, of which 0.1 is customarily called small."""

_FEWEST_PER_BIN = 5.0


@dataclass(frozen=True, slots=True)
class Test:
    """The result of a test: its `statistic`, 0 or above, and the `threshold` above which it is drift."""

    __test__ = False  # pytest would take the name for a test class

    statistic: float
    threshold: float

    @property
    def drift(self) -> bool:
        """Whether the inputs differ."""
        return self.statistic > self.threshold


def mean_shift(mean: float, count: float, reference: tuple[float, float], reference_count: float, level: float) -> Test:
    """Test the mean of `count` live values against the mean and standard deviation of the reference: a z-test.

    The statistic is the absolute difference, the threshold `MEAN_TOLERANCE` + z σ √(deff/n + 1/M). `level` is the
    probability of a false alarm. Raises ValueError if a count is not positive.
    """
    expected, deviation = reference
    z = NormalDist().inv_cdf(1 - level / 2)
    error = deviation * math.sqrt(_scale(count, reference_count))
    return Test(abs(mean - expected), MEAN_TOLERANCE + z * error)


def shares_shift(counts: Floats, reference: Floats, level: float) -> Test:
    """Test the counts of live requests in B bins, [B], against those of the reference, [B]: a χ² test of homogeneity.

    The statistic is Σ (p − q)² / r, where p and q are the live and the reference shares and r the pooled ones. Without
    drift, and divided by deff/n + 1/M, it is χ² with B − 1 degrees of freedom; with a difference that is tolerated it
    is noncentral χ² (population resemblance statistic, arXiv 2307.11878). Bins in which the smaller of the two samples
    would have fewer than five are pooled.

    Raises ValueError if shapes differ, a count is negative, or nothing was counted.
    """
    if counts.ndim != 1 or counts.shape != reference.shape or (counts < 0).any() or (reference < 0).any():
        shapes = f"{counts.shape} and {reference.shape}"
        raise ValueError(f"expected two rows of equally many counts, 0 or above, got shapes {shapes}")
    live, known = float(counts.sum()), float(reference.sum())
    scale = _scale(live, known)
    effective = live / DESIGN_EFFECT
    pooled = (counts / DESIGN_EFFECT + reference) / (effective + known)
    rare = pooled * min(effective, known) < _FEWEST_PER_BIN
    p, q, r = (np.append(shares[~rare], shares[rare].sum()) for shares in (counts / live, reference / known, pooled))
    filled = r > 0
    statistic = float(((p - q)[filled] ** 2 / r[filled]).sum())
    return Test(statistic, distance_quantile(max(int(filled.sum()) - 1, 1), scale, level))


def embedding_shift(
    mean: Floats, count: float, reference: Floats, precision: Floats, reference_count: float, level: float
) -> Test:
    """Test the mean random Fourier features [D] of live embeddings against those of the reference, [D].

    The statistic is their squared Mahalanobis distance, with `precision` [D, D], the inverse covariance of the features
    of one text (the normalised mean embedding test of Chwialkowski et al., 2015, for random frequencies). It finds
    foreign texts about twice as surely as the maximum mean discrepancy of the same features. Without drift, and divided
    by deff/n + 1/M, it is χ² with D degrees of freedom. `count` may be an effective number of requests.

    Raises ValueError if shapes differ or a count is not positive.
    """
    if mean.shape != reference.shape or precision.shape != (mean.size, mean.size):
        raise ValueError(f"shapes do not fit: {mean.shape}, {reference.shape} and {precision.shape}")
    difference = mean - reference
    threshold = distance_quantile(mean.size, _scale(count, reference_count), level)
    return Test(float(difference @ precision @ difference), threshold)


def distance_quantile(freedom: int, scale: float, level: float, tolerance: float = DISTANCE_TOLERANCE) -> float:
    """Return what a squared distance exceeds with probability `level` where the true one is `tolerance`.

    The distance, divided by `scale`, is noncentral χ² with `freedom` degrees of freedom and noncentrality `tolerance` /
    `scale`. A shifted gamma distribution of the same mean, variance and skewness stands for it (Pearson 1959), with the
    quantile of Wilson and Hilferty (1931). In the far tail both err on the side of fewer alarms: by 3 % at 9 degrees of
    freedom, 16 % at one.
    """
    noncentrality = tolerance / scale
    second = freedom + 2 * noncentrality  # half of the variance
    third = freedom + 3 * noncentrality  # an eighth of the third central moment
    gamma = second**3 / third**2
    spread = 2 / (9 * gamma)
    quantile = gamma * (1 - spread + NormalDist().inv_cdf(1 - level) * math.sqrt(spread)) ** 3
    return scale * (freedom + noncentrality + math.sqrt(second / gamma) * (quantile - gamma))


def psi_excess(counts: Floats, reference: Floats) -> float:
    """Return the population stability index Σ (p − q) ln(p / q) of two rows of counts, minus what chance adds to it.

    Chance adds (B − 1)(1/n + 1/M) (Yurdakul and Naranjo 2020), so that the result is near 0 without drift at any
    sample size. Every bin has half a count added, so that no share is zero. To be shown, not tested.
    """
    p, q = ((row + 0.5) / (row.sum() + 0.5 * row.size) for row in (counts, reference))
    return float((p - q) @ np.log(p / q)) - (counts.size - 1) * float(1 / counts.sum() + 1 / reference.sum())


def _scale(count: float, reference_count: float) -> float:
    """Return the variance of the difference of two means, for values of variance 1."""
    if not (count > 0 and reference_count > 0):
        raise ValueError(f"counts must be positive, got {count} and {reference_count}")
    return DESIGN_EFFECT / count + 1 / reference_count
