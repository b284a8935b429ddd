"""Post-stratified means of a bounded metric over all requests, and their intervals.

Bands are sampled at different rates, so each is averaged on its own and weighted by its share of all requests. A
teacher that fails more often in one band then costs precision, but causes no bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MeanEstimate:
    """The mean of a metric over the requests of all covered bands, and an interval inside the metric's range.

    `mean`, `stderr`, `lower` and `upper` are in the metric's unit; `coverage`, in (0, 1], is the share of
    requests in bands with a comparison; `level`, in (0, 1), is that of the interval.
    """

    mean: float
    stderr: float
    lower: float
    upper: float
    coverage: float
    level: float


def estimate_mean(
    requests: Floats,
    completed: Floats,
    sums: Floats,
    squares: Floats,
    maximum: float,
    level: float = 0.95,
) -> MeanEstimate | None:
    """Return the post-stratified mean of a metric in [0, `maximum`], or `None` with nothing to average.

    For divergences: a KL clipped at `maximum` nats, or a Jensen–Shannon divergence (`maximum` = ln 2). All
    arrays have shape [B]: requests N_b, completed comparisons n_b, and the sums of the metric and of its square over
    the comparisons.

    mean = Σ_b (N_b / N) · sum_b / n_b over the bands with n_b > 0, and a normal interval clipped to the range
    (Holt and Smith 1979). The variance counts one more comparison per band, half of it at 0 and half at
    `maximum`, so that the variance of a band with equal values is not zero. A wide range thus makes wide intervals:
    prefer a metric with a narrow one.

    Raises ValueError if shapes differ, a number is negative or not finite, the sums do not fit the range,
    `maximum` is not positive, or `level` is not in (0, 1).
    """
    shape = np.shape(requests)
    requests = checked_counts("requests", requests, shape)
    completed = checked_counts("completed", completed, shape)
    sums = checked_counts("sums", sums, shape)
    squares = checked_counts("squares", squares, shape)
    if not 0.0 < maximum < math.inf:
        raise ValueError(f"maximum must be positive and finite, got {maximum}")
    slack = 1.0 + 1e-9  # the rounding of long sums
    if np.any(sums > maximum * completed * slack) or np.any(squares > maximum * sums * slack):
        raise ValueError(f"sums and squares do not fit a metric in [0, {maximum}]")
    quantile = normal_quantile(level)

    covered, weights = strata(requests, completed)
    if not covered.any():
        return None
    n, total, square = completed[covered], sums[covered], squares[covered]
    first, second = (total + maximum / 2) / (n + 1), (square + maximum**2 / 2) / (n + 1)
    mean = float(weights @ (total / n))
    stderr = math.sqrt(float(weights**2 @ ((second - first**2) / (n + 1))))
    return MeanEstimate(
        mean=mean,
        stderr=stderr,
        lower=max(mean - quantile * stderr, 0.0),
        upper=min(mean + quantile * stderr, maximum),
        coverage=float(requests[covered].sum() / requests.sum()),
        level=level,
    )


def confidence_sequence(completed: float, planned: float, level: float = 0.95) -> float:
    """Return the factor on the standard error that makes an interval valid at all times at once.

    For a window that only grows, such as "since this version was deployed": mean ± factor · stderr may be
    read after every comparison. It is not for a sliding window. The interval is the tightest near `planned`,
    the number of comparisons at which it matters most; there the factor is 3.04 at level 0.95, compared with 1.96 for
    a single look. Like normal intervals, it needs some hundred comparisons to hold.

    The asymptotic confidence sequence in closed form, √((1 + 1/x) · (2 ln(1/α) + ln(1 + x))), with
    α = 1 − level, x = r²V and r² = (−α² − 2 ln α + ln(−2 ln α + 1 − α²)) / V* (Waudby-Smith, Arbour, Sinha,
    Kennedy and Ramdas, arXiv 2103.06476). V / V* is `completed` / `planned` as long as the bands' shares of
    the comparisons stay constant.

    Raises ValueError if a number of comparisons is not positive and finite, or `level` is not in [0.5, 1), where
    the approximation behind r² holds.
    """
    if not (0.0 < completed < math.inf and 0.0 < planned < math.inf):
        raise ValueError(f"completed and planned must be positive and finite, got {completed} and {planned}")
    if not 0.5 <= level < 1.0:
        raise ValueError(f"level must be in [0.5, 1), got {level}")
    alpha = 1.0 - level
    doubled = -2.0 * math.log(alpha)
    x = (doubled - alpha**2 + math.log(doubled + 1.0 - alpha**2)) * completed / planned
    return math.sqrt((1.0 + 1.0 / x) * (doubled + math.log1p(x)))


def normal_quantile(level: float) -> float:
    """Return the half width of a two-sided normal interval in standard errors; raise outside (0, 1)."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
    return NormalDist().inv_cdf((1.0 + level) / 2.0)


def checked_counts(name: str, values: Floats, shape: tuple[int, ...]) -> Floats:
    """Return a float64 copy of one finite number ≥ 0 per band, or raise ValueError."""
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or array.shape != shape:
        raise ValueError(f"{name} must have one number per band, got shape {array.shape}, expected {shape}")
    if not np.all((array >= 0.0) & np.isfinite(array)):
        raise ValueError(f"{name} must be finite and >= 0, got {array.tolist()}")
    return array


def strata(requests: Floats, completed: Floats) -> tuple[NDArray[np.bool_], Floats]:
    """Return which bands have requests and comparisons, and the request shares of those, which sum to 1."""
    covered = (requests > 0.0) & (completed > 0.0)
    return covered, requests[covered] / requests[covered].sum()
