"""Drift of the inputs: whether requests still look like those that the student was validated on.

Two statistics over sums of plain counters: the population stability index of binned scalars, and the maximum mean
discrepancy of embeddings through random Fourier features. For both, the expected contribution of chance is known,
because a fixed limit is meaningless at an unknown sample size. Drift is a reason to look; the gap tells whether it
harms.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bins:
    """The bins of one scalar feature, and how the reference filled them.

    - `edges` [B − 1]: upper, inclusive ends of all bins but the last, increasing.
    - `mass` [B]: share of the reference in each bin, positive, summing to 1.
    - `count`: number of reference values, M.
    """

    edges: tuple[float, ...]
    mass: Floats
    count: int

    def index(self, value: float) -> int:
        """Return the bin of one value, in [0, B); raises ValueError if it is not a number."""
        if math.isnan(value):
            raise ValueError("cannot bin NaN, expected a number")
        return bisect_left(self.edges, value)


def fit_bins(values: Floats, bins: int = 10) -> Bins:
    """Return bins that divide the reference `values` [M] as equally as ties allow.

    A value that would fill several bins gets one: there are then fewer than `bins`, of unequal mass. A constant
    feature also has a bin for everything above the constant. Masses are smoothed by half a count.

    Raises ValueError if `bins` < 2, or `values` is not one-dimensional with at least `bins` finite numbers.
    """
    values = np.asarray(values, dtype=np.float64)
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    if values.ndim != 1 or values.size < bins or not np.all(np.isfinite(values)):
        raise ValueError(f"values must be at least {bins} finite numbers in a row, got shape {values.shape}")
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=edges.size + 1)
    return Bins(tuple(edges.tolist()), _smoothed(counts.astype(np.float64)), values.size)


def psi(counts: Floats, reference: Floats) -> float:
    """Return the population stability index Σ (p − q) ln(p / q), in nats, ≥ 0.

    `counts` [B] are the observed counts, smoothed by half a count per bin to the masses p; `reference` [B] are the
    masses q > 0, which sum to 1.

    Raises ValueError if shapes differ, a count is negative, nothing was counted, or a mass is not positive.
    """
    counts, reference = np.asarray(counts, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if counts.ndim != 1 or counts.shape != reference.shape:
        raise ValueError(f"counts and reference must fit, got shapes {counts.shape} and {reference.shape}")
    if not (np.all(counts >= 0.0) and 0.0 < counts.sum() < math.inf):
        raise ValueError("counts must be >= 0 with at least one request")
    if not (np.all(reference > 0.0) and abs(reference.sum() - 1.0) < 1e-6):
        raise ValueError("reference must be positive masses that sum to 1")
    seen = _smoothed(counts)
    return float((seen - reference) @ np.log(seen / reference))


def psi_noise(bins: int, count: float, reference_count: float) -> float:
    """Return the expected PSI without drift, (B − 1)(1/n + 1/M) (Yurdakul and Naranjo 2020).

    `count` and `reference_count` are the sample sizes n and M behind the two distributions.

    Raises ValueError if one is not positive or there is no bin.
    """
    if bins < 1 or not (count > 0.0 and reference_count > 0.0):
        raise ValueError(f"expected bins >= 1 and positive counts, got {bins}, {count} and {reference_count}")
    return (bins - 1) * (1.0 / count + 1.0 / reference_count)


def psi_excess(counts: Floats, reference: Floats, reference_count: float) -> float:
    """Return `psi` minus `psi_noise`: near 0 without drift, at any sample size. Raises what these raise."""
    return psi(counts, reference) - psi_noise(len(counts), float(np.sum(counts)), reference_count)


@dataclass(frozen=True, eq=False)
class RandomFourierFeatures:
    """A random map φ_j(x) = cos(ω_j · x + b_j) whose means tell distributions of embeddings apart.

    `projection` [D, d] holds ω (whitening folded in, if any) and `offsets` [D] holds b, uniform on [0, 2π)
    (Rahimi and Recht 2007). The squared distance of two mean maps approximates the maximum mean discrepancy
    of a Gaussian kernel (Gretton et al. 2012).

    Raises ValueError if the shapes do not fit each other.
    """

    projection: NDArray[np.floating]
    offsets: NDArray[np.floating]

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit."""
        if self.projection.ndim != 2 or self.offsets.shape != self.projection.shape[:1]:
            shapes = f"{self.projection.shape} and {self.offsets.shape}"
            raise ValueError(f"expected projection [D, d] and offsets [D], got shapes {shapes}")

    def shifted(self, embedding: NDArray[np.floating]) -> Floats:
        """Return φ + 1, in [0, 2], shape [..., D], for embeddings of shape [..., d].

        Never negative, so that its sum over requests is a counter.
        """
        return np.asarray(np.cos(embedding @ self.projection.T + self.offsets) + 1.0, dtype=np.float64)

    def reference(self, embeddings: NDArray[np.floating]) -> tuple[Floats, float]:
        """Return the mean map [D] of reference embeddings [M, d] and its trace term, (2/D) · Σ_j var φ_j."""
        features = self.shifted(embeddings) - 1.0
        return features.mean(axis=0), float(2.0 * features.var(axis=0).mean())

    def mmd2(
        self,
        sums: Floats,
        count: float,
        mean: Floats,
        trace: float,
        reference_count: float = math.inf,
    ) -> float:
        """Return the squared discrepancy between live requests and the reference, near 0 without drift.

        (2/D) · Σ_j (sums_j / n − 1 − mean_j)² − trace · (1/n + 1/M): unbiased, so it may be a little
        negative.

        - `sums` [D]: sums of `shifted` over `count` = n requests; sums and counts of pods add.
        - `mean` [D], `trace`: from `reference`. `reference_count`: its M, left out when it is large.

        Raises ValueError if shapes do not fit or a count is not positive.
        """
        sums, mean = np.asarray(sums, dtype=np.float64), np.asarray(mean, dtype=np.float64)
        if not sums.shape == mean.shape == self.offsets.shape:
            raise ValueError(f"expected shape {self.offsets.shape}, got {sums.shape} and {mean.shape}")
        if not (count > 0.0 and reference_count > 0.0):
            raise ValueError(f"counts must be positive, got {count} and {reference_count}")
        difference = sums / count - 1.0 - mean
        return float(2.0 * np.mean(difference**2)) - trace * (1.0 / count + 1.0 / reference_count)


def _smoothed(counts: Floats) -> Floats:
    """Return shares with half a count added to every bin, so that no share is zero."""
    return np.asarray((counts + 0.5) / (counts.sum() + 0.5 * counts.size))
