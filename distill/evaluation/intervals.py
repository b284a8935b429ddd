"""Confidence intervals for statistics of one set of rows: Wilson for proportions, a paired bootstrap for the rest.

The bootstrap resamples rows and computes every statistic on the same resample, so ratios and differences of two
classifiers keep their correlation (Efron & Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_CHUNK = 256  # resamples held in memory at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the ends of its confidence interval."""

    value: float
    lower: float
    upper: float


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Return a proportion with its Wilson score interval (Wilson 1927), valid also at 0 and 1; `trials` is positive."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def paired_bootstrap(
    columns: Floats,
    statistics: Callable[[Floats], Floats],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Return percentile intervals of M statistics that are functions of column means, all from the same resamples.

    `columns` is [N, C], a row per example; `statistics` maps means [..., C] to values [..., M].
    """
    count = len(columns)
    generator = np.random.default_rng(seed)
    drawn = []
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        weights = generator.multinomial(count, np.full(count, 1 / count), size=size)
        drawn.append(statistics(weights @ columns / count))
    values = statistics(columns.mean(axis=0))
    lower, upper = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Interval(float(v), float(low), float(high)) for v, low, high in zip(values, lower, upper, strict=True)]
