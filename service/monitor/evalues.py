"""Evidence that a band disagrees more than its ceiling allows: e-values of windows, and an e-detector for all time.

It sees a student that is confidently wrong long before the gap as a whole shows it; `gap_evalues` judges the whole gap
against its limit. The null hypothesis is one ceiling per band: P(disagree | band, past) ≤ p0_b at all times. Under it
an e-value has expectation ≤ 1, so that P(E ≥ A) ≤ 1/A. Its logarithm is linear in plain counts, so that counters of
pods add up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from service.monitor.cells import Cells, Floats

BAND_FACTORS = (1.5, 5.0)  # multiples of the ceiling: the alternatives for one band alone
SPREAD_FACTOR = 1.25  # multiple of the ceilings: the alternative for all bands at once
LOG_TICKET = math.log(1e3)
LOG_PAGE = math.log(1e4)

_CAP = 1e300


def alternatives(null: Floats) -> Floats:
    """Return p1 of every component and band, shape [2B + 1, B], for the ceilings `null` of shape [B].

    Row i·B + b tests band b alone, with p1 = BAND_FACTORS[i] · p0; the last row tests all bands, with
    p1 = SPREAD_FACTOR · p0. For bands that a component does not test, p1 = p0 and its factor is 1. No p1 exceeds the
    middle of p0 and 1. A ceiling of 1 allows everything and is never tested.

    Raises ValueError if a ceiling is not in (0, 1].
    """
    null = np.asarray(null, dtype=np.float64)
    if null.ndim != 1 or null.size == 0 or not np.all((null > 0.0) & (null <= 1.0)):
        raise ValueError(f"null must hold one ceiling in (0, 1] per band, got {null.tolist()}")
    highest = (1.0 + null) / 2.0
    alone = np.eye(null.size, dtype=np.bool_)
    rows = [np.where(alone, np.minimum(factor * null, highest), null) for factor in BAND_FACTORS]
    return np.vstack([*rows, np.minimum(SPREAD_FACTOR * null, highest)])


def log_factors(null: Floats) -> tuple[Floats, Floats]:
    """Return ln(p1 / p0) and ln((1 − p1) / (1 − p0)), [2B + 1, B]: what a disagreement and an agreement add.

    Rows as in `alternatives`. k ln(p1 / p0) + (n − k) ln((1 − p1) / (1 − p0)) is the log e-value of k disagreements in
    n comparisons, for the composite null p ≤ p0: as p1 ≥ p0, each factor has expectation 1 at p0 and less below it.
    Both are 0 where p0 = p1 = 1.
    """
    p0, p1 = np.asarray(null, dtype=np.float64), alternatives(null)
    room, left = np.where(p0 < 1.0, 1.0 - p0, 1.0), np.where(p0 < 1.0, 1.0 - p1, 1.0)
    return np.log(p1 / p0), np.log(left / room)


def component_log_evalues(disagreements: Floats, completed: Floats, null: Floats) -> Floats:
    """Return the log e-value of every component, shape [..., 2B + 1], for counts of shape [..., B].

    Raises ValueError if the last axis of the counts is not that of `null`, or a count is not within 0 ≤ k ≤ n.
    """
    k, n = np.asarray(disagreements, dtype=np.float64), np.asarray(completed, dtype=np.float64)
    if k.shape != n.shape or k.shape[-1:] != np.shape(null):
        raise ValueError(f"counts must have shape [..., {np.size(null)}], got {k.shape} and {n.shape}")
    if not np.all((k >= 0.0) & (k <= n) & np.isfinite(n)):
        raise ValueError("counts must be finite with 0 <= disagreements <= completed")
    disagree, agree = log_factors(null)
    return np.asarray(k @ disagree.T + (n - k) @ agree.T)


def log_mean_exp(log_evalues: Floats) -> Floats:
    """Return the logarithm of the mean e-value over the last axis, without overflow.

    The mean of e-values is an e-value, however they depend on each other (Vovk and Wang, arXiv 1912.06116).
    """
    highest = log_evalues.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(log_evalues - highest).mean(axis=-1)) + highest[..., 0])


def log_exceeds_ceilings(cells: Cells, ceilings: Sequence[tuple[float, Floats]]) -> float:
    """Return the log e-value of a window against the ceilings of its bands.

    The mean of 2B + 1 components. Under the null P(E ≥ A) ≤ 1/A at any one look, and over all looks at a
    window that only grows (Ville). Missing comparisons do no harm if they are independent of the outcome within the
    band.

    `ceilings` holds the ceilings of shape [B] with the time (Unix seconds) from which they hold, oldest first: they may
    be set anew from earlier comparisons, and cells of later slots are then judged by the new ones.

    Raises ValueError if there are no ceilings or a cell has a band beyond theirs, and as `alternatives` does.
    """
    if not ceilings:
        raise ValueError("expected ceilings, got none")
    ends = [start for start, _ in ceilings[1:]] + [math.inf]
    start, total = -math.inf, np.zeros(1)
    for end, (_, null) in zip(ends, ceilings, strict=True):
        inside = (cells.slot >= start) & (cells.slot < end)
        part = cells if inside.all() else cells.where(inside)
        disagreed, compared = (part.by_band(values, len(null)) for values in (part.disagreed, part.compared))
        total = total + component_log_evalues(disagreed, compared, null)
        start = end
    return float(log_mean_exp(total))


class EDetector:
    """An e-detector of Shiryaev–Roberts type: one number that is low under the null and grows after a change.

    Every component updates M ← (M + 1) · L at each comparison that it tests, with L its likelihood ratio
    factor (Shin, Ramdas and Rinaldo, arXiv 2203.03532). `value` is their sum over three, because a comparison
    feeds three components, so that E[value] ≤ n after n comparisons under the null. Stopping at value ≥ A
    then has an average run length of at least A comparisons. Values of several pods may be summed, and a
    restart only forgets evidence.

    A component is not updated by comparisons of other bands. With L = 1 instead, that of a band without traffic would
    grow by itself.

    Raises ValueError if a ceiling is not in (0, 1], or `evidence` is not that of a detector with as many bands.
    """

    def __init__(self, null: Floats, evidence: Sequence[float] | None = None) -> None:
        """Start against the ceilings `null` of shape [B], with the `evidence` of an earlier detector, if given."""
        tested = alternatives(null) != np.asarray(null, dtype=np.float64)
        disagree, agree = (np.exp(factor) for factor in log_factors(null))
        self._factors = [
            [(row, agree[row, band].item(), disagree[row, band].item()) for row in np.flatnonzero(rows)]
            for band, rows in enumerate(tested.T)
        ]
        self._evidence = [0.0] * tested.shape[0] if evidence is None else [float(value) for value in evidence]
        if len(self._evidence) != tested.shape[0]:
            raise ValueError(f"evidence must have {tested.shape[0]} components, got {len(self._evidence)}")

    @property
    def evidence(self) -> tuple[float, ...]:
        """The state: one number per component, shape [2B + 1]."""
        return tuple(self._evidence)

    @property
    def value(self) -> float:
        """The evidence so far, from 0 to about 1e300."""
        return sum(self._evidence) / (len(BAND_FACTORS) + 1)

    def update(self, band: int, disagree: bool) -> float:
        """Take one comparison in `band` and return `value`; raises ValueError if there is no such band."""
        if not 0 <= band < len(self._factors):
            raise ValueError(f"band must be in [0, {len(self._factors)}), got {band}")
        for row, if_agree, if_disagree in self._factors[band]:
            factor = if_disagree if disagree else if_agree
            self._evidence[row] = min((self._evidence[row] + 1.0) * factor, _CAP)
        return self.value
