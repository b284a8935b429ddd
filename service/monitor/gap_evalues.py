"""Evidence on the whole gap against one limit: e-values that it is exceeded, and that it is kept.

Every request for which a coin was tossed is a bet, whatever its band and whatever the teacher's failures. With the coin
ξ of probability π, the disagreement y, and a number d that was foreseen for its band, Z = d + ξ (y − d) / π has the
conditional mean P(disagree) for any d, so that 1 + λ (Z − m) has expectation ≤ 1 while the gap is at most m. The better
d foretells y, the less Z varies, and the sooner the evidence grows. The product over the requests follows from counts
per cell. The ceilings per band, which see a confident student go wrong sooner, are the business of `evalues`.
"""

from __future__ import annotations

import numpy as np

from service.monitor.cells import Cells, Floats, Ints
from service.monitor.evalues import log_mean_exp

EXCEED_BETS = (0.7, 1.2, 2.0, 5.0, 10.0)
"""λ of the e-value against the limit, in units of the lowest propensity of a slot.

The smaller a rise, the smaller is the bet that finds it soonest. Three are close together, because a small rise takes
thousands of comparisons, of which a stake shared with losing bets costs hundreds."""

KEEP_BETS = (0.4, 0.6, 0.8, 0.9, 0.97)
"""λ of the e-value for the limit, as shares of the largest: beyond it one disagreement could make E negative."""

LARGEST = 0.9
"""Largest λ of the e-value against the limit, as a share of that at which a comparison could make E zero."""


def log_exceeds(cells: Cells, limit: float, foreseen: Floats | None = None) -> float:
    """Return the log e-value against "the gap is at most `limit`", the mean of five bets (see `EXCEED_BETS`).

    `foreseen` [B] holds d in [0, 1], the disagreement rate of each band as it was foreseen before any of these
    requests; 0 by default. A comparison that is pending or lost counts as an agreement, so that failures only weaken
    the evidence. If the gap is at most `limit` given the past, P(E ≥ A) ≤ 1/A, at any one look and over all looks at
    cells that only grow (Ville).

    Raises ValueError if `limit` is not in (0, 1).
    """
    return float(log_mean_exp(exceed_terms(cells, limit, foreseen).sum(axis=1)))


def exceed_terms(cells: Cells, limit: float, foreseen: Floats | None = None) -> Floats:
    """Return what each cell adds to the logarithm of each bet of `log_exceeds`, shape [5, C]; windows sum it."""
    return _terms(cells, cells.disagreed, exceed_factors(cells.propensity, limit, *_given(cells, foreseen)))


def log_keeps(cells: Cells, limit: float, foreseen: Floats | None = None) -> float:
    """Return the log e-value against "the gap is at least `limit`", the mean of five bets (see `KEEP_BETS`).

    The mirror of `log_exceeds`, of 1 + λ (m − Z): it grows while the gap is below `limit`, and is what can say that a
    student may stay. A comparison that is pending or lost counts as a disagreement, so that failures only weaken it.

    Raises ValueError if `limit` is not in (0, 1).
    """
    against = np.maximum(cells.sampled - cells.agreed, 0.0)
    factors = keep_factors(cells.propensity, limit, *_given(cells, foreseen))
    return float(log_mean_exp(_terms(cells, against, factors).sum(axis=1)))


def exceed_factors(
    propensity: Floats, limit: float, foreseen: Floats, slot: Ints, band: Ints
) -> tuple[Floats, Floats, Floats]:
    """Return what a disagreement, another sample and any other request add to the log e-value of each bet, [5, C] each.

    `propensity` [C] and `foreseen` [C] are those of each cell. Bets follow the propensities of their `slot` [C],
    counted from 0: they may depend on the sampling rate, but on no coin, no outcome, and not on the `band` [C] of a
    request: bets that are larger while only uncertain answers are given would win without a rise of the gap.

    Raises ValueError if `limit` is not in (0, 1).
    """
    lowest = -_highest(-propensity, slot, band)
    worst = _highest(foreseen * (1.0 / propensity - 1.0), slot, band) + _checked(limit)
    bets = np.minimum(np.multiply.outer(EXCEED_BETS, lowest), LARGEST / worst)
    agreed = foreseen * (1.0 - 1.0 / propensity)
    return (
        np.log1p(bets * (agreed + 1.0 / propensity - limit)),
        np.log1p(bets * (agreed - limit)),
        np.log1p(bets * (foreseen - limit)),
    )


def keep_factors(
    propensity: Floats, limit: float, foreseen: Floats, slot: Ints, band: Ints
) -> tuple[Floats, Floats, Floats]:
    """Return what a sample that did not agree, an agreement and any other request add to the mirror, as above."""
    disagreed = foreseen + (1.0 - foreseen) / propensity
    bets = np.multiply.outer(KEEP_BETS, 1.0 / (_highest(disagreed, slot, band) - _checked(limit)))
    return (
        np.log1p(bets * (limit - disagreed)),
        np.log1p(bets * (limit - disagreed + 1.0 / propensity)),
        np.log1p(bets * (limit - foreseen)),
    )


def _terms(cells: Cells, counted: Floats, factors: tuple[Floats, Floats, Floats]) -> Floats:
    """Return the logarithm of each bet's product over the requests of each cell; of its samples, `counted` count.

    Slots in which a cell has more samples than requests add nothing: a teacher took samples over from another one,
    without the requests that were not sampled, and samples alone are not what the traffic is.
    """
    if_counted, if_sampled, otherwise = factors
    unsampled = cells.requests - cells.sampled
    terms = if_counted * counted + if_sampled * (cells.sampled - counted) + otherwise * unsampled
    _, slot = np.unique(cells.slot, return_inverse=True)
    whole = np.bincount(slot, weights=unsampled < 0.0) == 0.0 if slot.size else np.zeros(0, dtype=np.bool_)
    return np.where(whole[slot], terms, 0.0)


def _given(cells: Cells, foreseen: Floats | None) -> tuple[Floats, Ints, Ints]:
    """Return what was foreseen for each cell, the number of its slot, and its band."""
    _, slot = np.unique(cells.slot, return_inverse=True)
    return np.zeros(len(cells)) if foreseen is None else foreseen[cells.band], slot.astype(np.int64), cells.band


def _highest(values: Floats, slot: Ints, band: Ints) -> Floats:
    """Return the highest of the values [C] over all bands in the slot of each cell.

    Where a slot lacks a band, that has its value of the last slot before with one, or else of the first slot after.
    """
    if not slot.size:
        return values
    table = np.full((int(slot.max()) + 1, int(band.max()) + 1), -np.inf)
    np.maximum.at(table, (slot, band), values)
    place, known = np.arange(len(table))[:, None], np.isfinite(table)
    before = np.maximum.accumulate(np.where(known, place, -1), axis=0)
    source = np.where(before >= 0, before, known.argmax(axis=0))
    return np.asarray(np.take_along_axis(table, source, axis=0).max(axis=1)[slot])


def _checked(limit: float) -> float:
    if not 0.0 < limit < 1.0:
        raise ValueError(f"limit must be in (0, 1), got {limit}")
    return limit
