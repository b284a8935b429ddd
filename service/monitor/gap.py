"""The live distillation gap: how often student and teacher disagree on real traffic, with an interval.

It is computed from cells of counts alone, so that windows and pods add up. The interval is for people to read, not for
alarms: reading it repeatedly inflates its error. Alarms use `evalues` and `gap_evalues`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.monitor.cells import Cells, Floats
from service.monitor.means import normal_quantile
from service.monitor.weights import comparison_weights


@dataclass(frozen=True)
class GapEstimate:
    """The live gap and its explanation; every number except the totals and the rectifier is in [0, 1].

    - `gap`, `stderr`, `lower`, `upper`: the disagreement rate, its standard error and its interval at
      `level`.
    - `expected_gap`: the disagreement rate predicted from the student's confidence, without a teacher.
    - `live_ece`: expected calibration error of that prediction, over the bands; biased upwards when comparisons are
      few, because noise counts as error.
    - `coverage`: share of requests in bands with a comparison.
    - `worst_case_lower`, `worst_case_upper`: the gap if every lost comparison had agreed, or had disagreed, and a band
      without any had never, or always. They bound what losses can hide, but not the sampling error.
    - `requests`, `sampled`, `lost`, `compared`, `disagreed`: totals.
    """

    gap: float
    stderr: float
    lower: float
    upper: float
    level: float
    expected_gap: float
    live_ece: float
    coverage: float
    worst_case_lower: float
    worst_case_upper: float
    requests: float
    sampled: float
    lost: float
    compared: float
    disagreed: float

    @property
    def rectifier(self) -> float:
        """The part of the gap that confidence does not predict, gap − expected gap, in [−1, 1]."""
        return self.gap - self.expected_gap

    @property
    def lost_ratio(self) -> float:
        """The share of the samples that ended without a comparison, of those that ended."""
        return self.lost / (self.lost + self.compared)


def estimate(cells: Cells, level: float = 0.95) -> GapEstimate | None:
    """Return the post-stratified gap over the requests of `cells`, or `None` if no band has requests and a comparison.

    gap = Σ_b (N_b / N) · p_b, with p_b = Σwy / Σw over the comparisons of the band and the weights of
    `comparison_weights` (Holt and Smith 1979). With effective counts n and k = n · p_b, the variance is
    Σ_b (N_b / N)² · p (1 − p) / (n + 1), p = (k + ½) / (n + 1): the ½ keeps that of a band positive when all agreed.
    The interval is stratified Wilson (`stratified_wilson`). A band without a comparison is estimated together with the
    nearest band that has one; `coverage` says how much of the traffic that leaves.

    It assumes that within a band and an hour, neither sampling nor losses depend on the outcome.

    Raises ValueError if `level` is not in (0, 1).
    """
    quantile = normal_quantile(level)
    if not len(cells):
        return None
    bands = int(cells.band.max()) + 1
    requests = cells.by_band(cells.requests, bands)
    weights = comparison_weights(cells)
    effective = cells.by_band(weights * cells.compared, bands)
    covered = (requests > 0.0) & (effective > 0.0)
    if not covered.any():
        return None
    disagreed = cells.by_band(weights * cells.disagreed, bands)[covered]
    n, share = effective[covered], _collapsed(requests, covered) / requests.sum()
    ratio = disagreed / n
    variance = _variance(ratio, n)
    lower, upper = stratified_wilson(share, ratio, n, quantile)
    expected = cells.by_band(cells.expected, bands)
    worst_case_lower, worst_case_upper = _worst_case(cells, requests)
    return GapEstimate(
        gap=float(share @ ratio),
        stderr=math.sqrt(float(share**2 @ variance)),
        lower=lower,
        upper=upper,
        level=level,
        expected_gap=float(expected.sum() / requests.sum()),
        live_ece=float(requests[covered] @ np.abs(ratio - expected[covered] / requests[covered]))
        / float(requests[covered].sum()),
        coverage=float(requests[covered].sum() / requests.sum()),
        worst_case_lower=worst_case_lower,
        worst_case_upper=worst_case_upper,
        requests=float(requests.sum()),
        sampled=float(cells.sampled.sum()),
        lost=float(cells.lost.sum()),
        compared=float(cells.compared.sum()),
        disagreed=float(cells.disagreed.sum()),
    )


def stratified_wilson(share: Floats, ratio: Floats, count: Floats, quantile: float) -> tuple[float, float]:
    """Return the ends of the stratified Wilson interval of Σ_b share · ratio, each in [0, 1].

    Sums Wilson's (1927) limits of the bands, each at a quantile that is reduced so that the sum has the width of one
    interval at `quantile`: z · √(Σ share² V) / Σ share √V (Yan and Su 2010, Statistics in Biopharmaceutical Research 2,
    with the shares as fixed weights). It leans towards ½: the truth is not missed above more often than below, as by a
    normal interval of a small ratio.

    The upper end uses a V that is positive in every band. The lower end uses the plain p (1 − p) / n: the limit of a
    band without a disagreement is 0 at any quantile, so that its variance must not reduce that of the others.

    All arrays have shape [B]: `share` of the traffic, which sums to 1, observed `ratio` and effective `count` > 0.
    """
    plain = ratio * (1.0 - ratio) / count
    smooth = _variance(ratio, count)
    lower, _ = _wilson(ratio, count, quantile * _reduction(share, plain if plain.any() else smooth))
    _, upper = _wilson(ratio, count, quantile * _reduction(share, smooth))
    return max(float(share @ lower), 0.0), min(float(share @ upper), 1.0)


def _wilson(ratio: Floats, count: Floats, z: float) -> tuple[Floats, Floats]:
    """Return Wilson's limits of every band at the normal quantile `z`."""
    centre = (count * ratio + z**2 / 2.0) / (count + z**2)
    half = z * np.sqrt(count * ratio * (1.0 - ratio) + z**2 / 4.0) / (count + z**2)
    return centre - half, centre + half


def _reduction(share: Floats, variance: Floats) -> float:
    """Return the standard error of the sum over the sum of standard errors, in (0, 1]."""
    return math.sqrt(float(share**2 @ variance)) / float(share @ np.sqrt(variance))


def _variance(ratio: Floats, count: Floats) -> Floats:
    """Return the variance of every ratio, with half a disagreement and half an agreement added to its count."""
    smooth = (ratio * count + 0.5) / (count + 1.0)
    return np.asarray(smooth * (1.0 - smooth) / (count + 1.0))


def _collapsed(requests: Floats, covered: npt.NDArray[np.bool_]) -> Floats:
    """Return the requests [covered] of the covered bands, each with those of the uncovered bands nearest to it.

    Of two equally near bands the less confident one is taken, so that the gap is overstated rather than understated.
    """
    places = np.flatnonzero(covered)
    distance = np.abs(np.arange(len(requests))[:, None] - places)
    nearest = distance.shape[1] - 1 - distance[:, ::-1].argmin(axis=1)
    return np.bincount(nearest, requests, len(places)).astype(np.float64)


def _worst_case(cells: Cells, requests: Floats) -> tuple[float, float]:
    """Return the gap if all lost comparisons agreed, and if all disagreed, bands without any included."""
    bands = len(requests)
    ended = cells.by_band((cells.compared + cells.lost) / cells.propensity, bands)
    disagreed = cells.by_band(cells.disagreed / cells.propensity, bands)
    lost = cells.by_band(cells.lost / cells.propensity, bands)
    known = ended > 0.0
    lower = np.divide(disagreed, ended, out=np.zeros(bands), where=known)
    upper = np.divide(disagreed + lost, ended, out=np.ones(bands), where=known)
    return float(requests @ lower / requests.sum()), float(requests @ upper / requests.sum())
