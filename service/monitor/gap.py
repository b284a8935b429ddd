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
    The requests are themselves a sample of the traffic, of which a witness may have read a share only, so that
    Σ_b (N_b / N) · (p_b − gap)² / N is added (double sampling; Cochran 1977, section 12.2). The interval is stratified
    Wilson (`stratified_wilson`), its ends moved out by the root of the sum of squares (Zou and Donner 2008). A band
    without a comparison is estimated together with the nearest band that has one; `coverage` says how much of the
    traffic that leaves.

    It assumes that within a band and an hour, neither sampling nor losses depend on the outcome.

    Raises ValueError if `level` is not in (0, 1).
    """
    quantile = normal_quantile(level)
    if not len(cells):
        return None
    bands = int(cells.band.max()) + 1
    requests, expected = cells.by_band(cells.requests, bands), cells.by_band(cells.expected, bands)
    weights = comparison_weights(cells)
    n = cells.by_band(weights * cells.compared, bands)
    covered = (requests > 0.0) & (n > 0.0)
    if not covered.any():
        return None
    disagreed = cells.by_band(weights * cells.disagreed, bands)
    ratio = np.minimum(np.divide(disagreed, n, out=np.zeros(bands), where=covered), 1.0)  # 1 but for rounding
    share = covered_shares(requests, covered)
    gap, between = double_sampling(share, ratio, requests)
    lower, upper = widened(gap, between, stratified_wilson(share, ratio, n, quantile), quantile)
    worst_case_lower, worst_case_upper = _worst_case(cells, requests)
    seen = np.where(covered, requests, 0.0)
    return GapEstimate(
        gap=float(gap),
        stderr=math.sqrt(float(share**2 @ _variance(ratio, n) + between)),
        lower=float(lower),
        upper=float(upper),
        level=level,
        expected_gap=float(expected.sum() / requests.sum()),
        live_ece=float(seen @ np.abs(ratio - expected / np.where(covered, requests, 1.0))) / float(seen.sum()),
        coverage=float(seen.sum() / requests.sum()),
        worst_case_lower=worst_case_lower,
        worst_case_upper=worst_case_upper,
        requests=float(requests.sum()),
        sampled=float(cells.sampled.sum()),
        lost=float(cells.lost.sum()),
        compared=float(cells.compared.sum()),
        disagreed=float(cells.disagreed.sum()),
    )


def with_deferred(found: GapEstimate, deferred: float) -> tuple[float, float, float]:
    """Return the gap of all answers, with its interval, where the teacher gave `deferred` more than were estimated.

    Those answers are the teacher's own, and so agree with it: with d = deferred / (requests + deferred), the whole gap
    is (1 − d) · gap. How often texts are deferred is itself seen in a sample of the traffic, which adds the variance
    gap² · d (1 − d) / (requests + deferred).
    """
    everything = found.requests + deferred
    share = deferred / everything
    kept = 1.0 - share
    between = np.array(found.gap**2 * share * kept / everything)
    ends = np.array(kept * found.lower), np.array(kept * found.upper)
    lower, upper = widened(np.array(kept * found.gap), between, ends, normal_quantile(found.level))
    return kept * found.gap, float(lower), float(upper)


def double_sampling(share: Floats, ratio: Floats, requests: Floats) -> tuple[Floats, Floats]:
    """Return the gap, and its variance because the requests are a sample of the traffic, both of shape [...].

    `share`, `ratio` and `requests` have shape [..., B].
    """
    gap = (share * ratio).sum(axis=-1)
    between = (share * (ratio - gap[..., None]) ** 2).sum(axis=-1)
    return gap, between / np.maximum(requests.sum(axis=-1), 1.0)


def widened(gap: Floats, between: Floats, ends: tuple[Floats, Floats], quantile: float) -> tuple[Floats, Floats]:
    """Return the ends of an interval moved out by the variance `between`, by the root of the sum of squares."""
    lower, upper = (np.hypot(end - gap, quantile * np.sqrt(between)) for end in ends)
    return np.maximum(gap - lower, 0.0), np.minimum(gap + upper, 1.0)


def stratified_wilson(share: Floats, ratio: Floats, count: Floats, quantile: float) -> tuple[Floats, Floats]:
    """Return the ends of the stratified Wilson interval of Σ_b share · ratio, each in [0, 1].

    Sums Wilson's (1927) limits of the bands, each at a quantile that is reduced so that the sum has the width of one
    interval at `quantile`: z · √(Σ share² V) / Σ share √V (Yan and Su 2010, Statistics in Biopharmaceutical Research 2,
    with the shares as fixed weights). It leans towards ½: the truth is not missed above more often than below, as by a
    normal interval of a small ratio.

    The upper end uses a V that is positive in every band. The lower end uses the plain p (1 − p) / n: the limit of a
    band without a disagreement is 0 at any quantile, so that its variance must not reduce that of the others.

    All arrays have shape [..., B], the ends [...]: `share` of the traffic, which sums to 1 over the bands, observed
    `ratio`, and effective `count` > 0 wherever the share is.
    """
    count = np.where(share > 0.0, count, 1.0)
    plain, smooth = ratio * (1.0 - ratio) / count, _variance(ratio, count)
    plain = np.where((share * plain).any(axis=-1, keepdims=True), plain, smooth)
    lower, _ = _wilson(ratio, count, quantile * _reduction(share, plain))
    _, upper = _wilson(ratio, count, quantile * _reduction(share, smooth))
    ends = ((share * limits).sum(axis=-1).clip(0.0, 1.0) for limits in (lower, upper))
    return next(ends), next(ends)


def _wilson(ratio: Floats, count: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Return Wilson's limits of every band at the normal quantile `z`."""
    centre = (count * ratio + z**2 / 2.0) / (count + z**2)
    half = z * np.sqrt(count * ratio * (1.0 - ratio) + z**2 / 4.0) / (count + z**2)
    return centre - half, centre + half


def _reduction(share: Floats, variance: Floats) -> Floats:
    """Return the standard error of the sum over the sum of standard errors, in (0, 1], shape [..., 1]."""
    whole = np.sqrt((share**2 * variance).sum(axis=-1, keepdims=True))
    return np.asarray(whole / (share * np.sqrt(variance)).sum(axis=-1, keepdims=True))


def _variance(ratio: Floats, count: Floats) -> Floats:
    """Return the variance of every ratio, with half a disagreement and half an agreement added to its count."""
    smooth = (ratio * count + 0.5) / (count + 1.0)
    return np.asarray(smooth * (1.0 - smooth) / (count + 1.0))


def covered_shares(requests: Floats, covered: npt.NDArray[np.bool_]) -> Floats:
    """Return the share of the traffic that each covered band stands for, shape [..., B], from `requests` [..., B].

    A band that is not covered is counted with the nearest one that is; of two equally near, with the less confident
    one, so that the gap is overstated rather than understated. Without any covered band all shares are 0.
    """
    place = np.arange(requests.shape[-1])
    distance = np.abs(place[:, None] - place) - 0.5 * (place > place[:, None])
    nearest = np.where(covered[..., None, :], distance, np.inf).argmin(axis=-1)
    counted = ((nearest[..., :, None] == place) * requests[..., :, None]).sum(axis=-2)
    total = requests.sum(axis=-1, keepdims=True)
    known = covered.any(axis=-1, keepdims=True)
    return np.asarray(np.divide(counted, total, out=np.zeros_like(counted), where=known & (total > 0.0)))


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
