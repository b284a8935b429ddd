"""The live distillation gap: how often student and teacher disagree on real traffic, with an interval.

It is computed from per-band counters alone, so that pods add up. The interval is for people to read, not for alarms:
reading it repeatedly inflates its error. Alarms use `evalues`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from service.monitor.means import checked_counts, estimate_mean, strata

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BandCounts:
    """The counts per band in one window; every field has shape [B] and adds up over pods and windows.

    - `requests`: answered requests, N_b.
    - `sampled`: requests chosen for the teacher, m_b.
    - `completed`: comparisons with a teacher answer, n_b.
    - `disagreements`: comparisons in which the teacher chose another class, k_b ≤ n_b.
    - `expected_disagreement`: sum over all requests of the calibrated disagreement probability, D_b ≤ N_b.

    Counts may be fractional, as increases over a window are. `completed` may exceed `sampled` in a short window,
    because an answer may arrive in a later window than its request.

    Raises ValueError if shapes differ, a count is negative or not finite, or one of the two bounds above is violated.
    """

    requests: Floats
    sampled: Floats
    completed: Floats
    disagreements: Floats
    expected_disagreement: Floats

    def __post_init__(self) -> None:
        """Convert to float64 and refuse impossible counts."""
        shape = np.shape(self.requests)
        for field in fields(self):
            counts = checked_counts(field.name, getattr(self, field.name), shape)
            object.__setattr__(self, field.name, counts)
        if np.any(self.disagreements > self.completed):
            raise ValueError("disagreements must not exceed completed comparisons in any band")
        if np.any(self.expected_disagreement > self.requests):
            raise ValueError("expected_disagreement must not exceed requests in any band")


@dataclass(frozen=True)
class GapEstimate:
    """The live gap and its explanation; every number except the totals and the rectifier is in [0, 1].

    - `gap`, `stderr`, `lower`, `upper`: the disagreement rate, its standard error and its interval at
      `level`.
    - `expected_gap`: the disagreement rate predicted from the student's confidence, without a teacher.
    - `live_ece`: expected calibration error of that prediction, over the bands; biased upwards when comparisons are
      few, because noise counts as error.
    - `coverage`: share of requests in bands with a comparison; all of the above speak of these requests only.
    - `worst_case_lower`, `worst_case_upper`: the gap over all requests if every missing comparison had agreed, or had
      disagreed. They bound what non-response can hide, but not the sampling error.
    - `requests`, `sampled`, `completed`: totals over all bands.
    """

    gap: float
    stderr: float
    lower: float
    upper: float
    expected_gap: float
    live_ece: float
    coverage: float
    worst_case_lower: float
    worst_case_upper: float
    requests: float
    sampled: float
    completed: float
    level: float

    @property
    def rectifier(self) -> float:
        """The part of the gap that confidence does not predict, gap − expected gap, in [−1, 1]."""
        return self.gap - self.expected_gap

    @property
    def agreement(self) -> float:
        """The agreement rate, 1 − gap."""
        return 1.0 - self.gap

    @property
    def agreement_lower(self) -> float:
        """The lower end of the agreement interval."""
        return 1.0 - self.upper

    @property
    def agreement_upper(self) -> float:
        """The upper end of the agreement interval."""
        return 1.0 - self.lower


def estimate(counts: BandCounts, level: float = 0.95) -> GapEstimate | None:
    """Return the post-stratified gap, or `None` when no band has both requests and a comparison.

    gap = Σ_b (N_b / N) · k_b / n_b, with variance Σ_b (N_b / N)² · p (1 − p) / (n_b + 1), p = (k_b + ½) /
    (n_b + 1), and a normal interval clipped to [0, 1] (Holt and Smith 1979; the ½ keeps the variance of a band
    positive when all comparisons agreed). Bands without a comparison are left out of N; `coverage` is the share of
    the others. Assumes that within a band neither sampling nor failures of the teacher depend on the outcome.

    Raises ValueError if `level` is not in (0, 1).
    """
    disagreements = counts.disagreements  # a 0/1 metric is its own square
    mean = estimate_mean(counts.requests, counts.completed, disagreements, disagreements, 1.0, level)
    if mean is None:
        return None
    covered, weights = strata(counts.requests, counts.completed)
    observed = disagreements[covered] / counts.completed[covered]
    expected = counts.expected_disagreement[covered] / counts.requests[covered]
    worst_case_lower, worst_case_upper = _worst_case(counts)
    return GapEstimate(
        gap=mean.mean,
        stderr=mean.stderr,
        lower=mean.lower,
        upper=mean.upper,
        expected_gap=float(weights @ expected),
        live_ece=float(weights @ np.abs(observed - expected)),
        coverage=mean.coverage,
        worst_case_lower=worst_case_lower,
        worst_case_upper=worst_case_upper,
        requests=float(counts.requests.sum()),
        sampled=float(counts.sampled.sum()),
        completed=float(counts.completed.sum()),
        level=level,
    )


def _worst_case(counts: BandCounts) -> tuple[float, float]:
    """Return the gap if all missing comparisons agreed, and if all disagreed, never sampled bands included."""
    chosen = np.maximum(counts.sampled, counts.completed)
    missing = chosen - counts.completed
    weights = counts.requests / counts.requests.sum()
    known = chosen > 0.0
    lower = np.divide(counts.disagreements, chosen, out=np.zeros_like(chosen), where=known)
    upper = np.divide(counts.disagreements + missing, chosen, out=np.ones_like(chosen), where=known)
    return float(weights @ lower), float(weights @ upper)
