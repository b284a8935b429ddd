"""Evidence on the whole gap against one limit: e-values that it is exceeded, and that it is kept.

Every request for which a coin was tossed is a bet, whatever its band and whatever the teacher's failures. With the coin
ξ of probability π and the disagreement y, Z = ξ y / π has the conditional mean P(disagree), so that 1 + λ (Z − m) has
expectation ≤ 1 while the gap is at most m. Its product over the requests follows from counts per cell. The ceilings per
band, which see a confident student go wrong sooner, are the business of `evalues`.
"""

from __future__ import annotations

import numpy as np

from service.monitor.cells import Cells, Floats
from service.monitor.evalues import log_mean_exp

EXCEED_BETS = (0.5, 1.0, 2.0, 5.0, 10.0)
"""λ of the e-value against the limit, in units of the lowest propensity of a slot."""

KEEP_BETS = (0.4, 0.6, 0.8, 0.9, 0.97)
"""λ of the e-value for the limit, as shares of the largest: beyond it one disagreement could make E negative."""

_LARGEST = 0.5  # of λ · m in the e-value against the limit, which must stay below 1


def log_exceeds(cells: Cells, limit: float) -> float:
    """Return the log e-value against "the gap is at most `limit`", the mean of five bets (see `EXCEED_BETS`).

    log E = Σ_c k_c ln(1 + λ (1/π_c − m)) + (N_c − k_c) ln(1 − λ m) for k_c disagreements among N_c requests. A
    comparison that is pending or lost counts as an agreement, so that failures only weaken the evidence. If the gap is
    at most `limit` given the past, P(E ≥ A) ≤ 1/A, at any one look and over all looks at cells that only grow (Ville).

    Raises ValueError if `limit` is not in (0, 1).
    """
    return float(log_mean_exp(exceed_terms(cells, limit).sum(axis=1)))


def exceed_terms(cells: Cells, limit: float) -> Floats:
    """Return what each cell adds to the logarithm of each bet of `log_exceeds`, shape [5, C]; windows sum it."""
    return _terms(cells, cells.disagreed, exceed_factors(cells.propensity, _lowest(cells), limit))


def log_keeps(cells: Cells, limit: float) -> float:
    """Return the log e-value against "the gap is at least `limit`", the mean of five bets (see `KEEP_BETS`).

    The mirror of `log_exceeds`, of 1 + λ (m − Z): it grows while the gap is below `limit`, and is what can say that a
    student may stay. A comparison that is pending or lost counts as a disagreement, so that failures only weaken it.

    Raises ValueError if `limit` is not in (0, 1).
    """
    against = np.maximum(cells.sampled - cells.agreed, 0.0)
    return float(
        log_mean_exp(_terms(cells, against, keep_factors(cells.propensity, _lowest(cells), limit)).sum(axis=1))
    )


def exceed_factors(propensity: Floats, lowest: Floats | float, limit: float) -> tuple[Floats, Floats]:
    """Return what a disagreement and any other request add to the log e-value of each bet, both of shape [5, C].

    `propensity` [C] is that of each cell, `lowest` ([C] or one number) the lowest one in force at the same time, which
    the bets follow: they may depend on the sampling rate, but on no coin and no outcome.

    Raises ValueError if `limit` is not in (0, 1).
    """
    bets = np.multiply.outer(EXCEED_BETS, np.broadcast_to(lowest, propensity.shape))
    bets = np.minimum(bets, _LARGEST / _checked(limit))
    return np.log1p(bets * (1.0 / propensity - limit)), np.log1p(-bets * limit)


def keep_factors(propensity: Floats, lowest: Floats | float, limit: float) -> tuple[Floats, Floats]:
    """Return what a sample that did not agree and any other request add to the mirrored log e-value, as above."""
    largest = 1.0 / (1.0 / np.broadcast_to(lowest, propensity.shape) - _checked(limit))
    bets = np.multiply.outer(KEEP_BETS, largest)
    return np.log1p(bets * (limit - 1.0 / propensity)), np.log1p(bets * limit)


def _terms(cells: Cells, counted: Floats, factors: tuple[Floats, Floats]) -> Floats:
    """Return the logarithm of each bet's product over the requests of each cell, `counted` of which are counted."""
    if_counted, otherwise = factors
    return if_counted * counted + otherwise * np.maximum(cells.requests - counted, 0.0)


def _lowest(cells: Cells) -> Floats:
    """Return the lowest propensity in the slot of each cell, shape [C]."""
    slots, slot = np.unique(cells.slot, return_inverse=True)
    lowest = np.ones(len(slots))
    np.minimum.at(lowest, slot, cells.propensity)
    return np.asarray(lowest[slot])


def _checked(limit: float) -> float:
    if not 0.0 < limit < 1.0:
        raise ValueError(f"limit must be in (0, 1), got {limit}")
    return limit
