"""The paired difference of two students on the same texts: how much more often one disagrees with the teacher.

Both answer the same texts, so that the texts on which both are right or both are wrong cancel out. The interval is for
one look, as a rehearsal before a rollout is; it is no test that may be repeated until it passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.monitor.gap import double_sampling, widened
from service.monitor.means import Floats, estimate_mean, normal_quantile, strata

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PairedDifference:
    """How often a candidate disagrees with the teacher, less how often the current student does.

    - `difference`, `lower`, `upper`: over all requests, in [-1, 1], with its interval at `level`; negative where the
      candidate is better.
    - `candidate`, `current`: the two gaps themselves, in [0, 1].
    - `worse`, `better`: texts on which the candidate alone, or the current student alone, is wrong.
    - `coverage`: share of the requests in bands with a comparison, in (0, 1].
    """

    difference: float
    lower: float
    upper: float
    level: float
    candidate: float
    current: float
    worse: int
    better: int
    coverage: float


def paired_difference(
    requests: Floats,
    band: npt.NDArray[np.intp],
    propensity: Floats,
    candidate: Bools,
    current: Bools,
    level: float = 0.95,
) -> PairedDifference | None:
    """Return the difference over all requests, or None without a text in a band that has requests.

    `requests` [B] are counted per confidence band. The other arrays have one element per text [N]: its `band`, its
    sampling `propensity` in (0, 1], and whether `candidate` and `current` disagreed with the teacher.

    Within a band a text counts 1 / propensity, and bands count by their requests (Holt and Smith 1979). The interval is
    that of `means.estimate_mean` for (candidate - current + 1) / 2, with Kish's effective number of texts in each band,
    widened because the requests are a sample of the traffic (`gap.double_sampling`). It assumes that within a band the
    loss of a sample does not depend on which student is right.

    Raises ValueError if shapes do not fit, a propensity is not in (0, 1], or `level` is not in (0, 1).
    """
    if not len(band) == len(propensity) == len(candidate) == len(current):
        raise ValueError("band, propensity, candidate and current must have one element per text")
    if not np.all((propensity > 0.0) & (propensity <= 1.0)):
        raise ValueError("a propensity must be in (0, 1]")
    bands = len(requests)
    weight = 1.0 / propensity
    first, second = np.bincount(band, weight, bands), np.bincount(band, weight**2, bands)
    count = np.divide(first**2, second, out=np.zeros(bands), where=second > 0.0)
    scale = np.divide(count, first, out=np.zeros(bands), where=first > 0.0)

    def total(values: npt.NDArray[np.floating[Any]]) -> Floats:
        return np.asarray(scale * np.bincount(band, weight * values, bands))

    metric = (1.0 + candidate.astype(np.float64) - current.astype(np.float64)) / 2.0
    sums = total(metric)
    found = estimate_mean(requests, count, sums, total(metric**2), 1.0, level)
    if found is None:
        return None
    covered, share = strata(requests, count)
    n = count[covered]
    middle, between = double_sampling(share, sums[covered] / n, requests[covered])
    lower, upper = widened(middle, between, (np.array(found.lower), np.array(found.upper)), normal_quantile(level))
    gaps = (float(share @ (total(wrong.astype(np.float64))[covered] / n)) for wrong in (candidate, current))
    return PairedDifference(
        difference=2.0 * found.mean - 1.0,
        lower=2.0 * float(lower) - 1.0,
        upper=2.0 * float(upper) - 1.0,
        level=level,
        candidate=next(gaps),
        current=next(gaps),
        worse=int((candidate & ~current).sum()),
        better=int((current & ~candidate).sum()),
        coverage=found.coverage,
    )
