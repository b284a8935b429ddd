"""Where student and teacher disagree: the gap by direction (what each of them chose) and by predicted class.

It is computed from comparisons tallied by both classes, with the weights of the whole gap, so that the directions add
up to it. Ratios are for people to read. A list of the worst is chosen after looking, so that its members look a little
worse than they are; alarms use the whole gap.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from service.monitor.cells import Cells, Floats, Ints
from service.monitor.gap import covered_shares, stratified_wilson
from service.monitor.means import normal_quantile
from service.monitor.weights import comparison_weights


@dataclass(frozen=True, eq=False)
class Pairs:
    """Comparisons tallied by both classes; every field has shape [P].

    - `period`: start of an hour or a day, Unix seconds, in which the requests were answered.
    - `band`: confidence band of the requests.
    - `propensity`: probability with which they were sampled, in (0, 1].
    - `student`, `teacher`: the class that each chose, ≥ 0.
    - `count`: number of comparisons, > 0.
    """

    period: Floats
    band: Ints
    propensity: Floats
    student: Ints
    teacher: Ints
    count: Floats

    def __len__(self) -> int:
        """Return the number of tallies, P."""
        return len(self.period)

    def since(self, start: float) -> Pairs:
        """Return the tallies of the periods that start at `start` (Unix seconds) or later."""
        chosen = self.period >= start
        return Pairs(*(getattr(self, item.name)[chosen] for item in fields(self)))


@dataclass(frozen=True)
class Direction:
    """How often the teacher chose one class and the student another, as a share of all requests, with its interval.

    `count` is the number of such comparisons. Both classes are None for all directions that are not listed.
    """

    teacher: int | None
    student: int | None
    ratio: float
    lower: float
    upper: float
    count: int


@dataclass(frozen=True)
class ClassGap:
    """How often the teacher disagrees where the student chose class `student`, with its interval.

    `share` is the share of the requests with that class, `compared` the number of comparisons of such requests.
    """

    student: int
    share: float
    ratio: float
    lower: float
    upper: float
    compared: int


def pair_weights(pairs: Pairs, cells: Cells, period: Floats) -> Floats:
    """Return the share of all requests that one comparison of each tally stands for, shape [P].

    Times the counts they sum to 1.

    The requests are those of `cells`, and `period` [C] is the period of each cell. A comparison of a cell stands for
    W_b · w / Σ_b w as in the estimate of the whole gap, with its weights w, and a tally for the mean of the cells that
    it has the period, the band and the propensity of. Cells whose comparisons were not tallied count as not compared,
    and a tally without a cell has no weight.
    """
    if not len(pairs) or not len(cells):
        return np.zeros(len(pairs))
    bands = int(cells.band.max()) + 1
    periods, at = np.unique(period, return_inverse=True)
    rates, rate = np.unique(cells.propensity, return_inverse=True)
    in_period, in_rate = _places(periods, pairs.period), _places(rates, pairs.propensity)
    there = (periods[in_period] == pairs.period) & (rates[in_rate] == pairs.propensity) & (pairs.band < bands)
    of_cell = (at.reshape(-1) * len(rates) + rate.reshape(-1)) * bands + cells.band
    of_pair = (in_period * len(rates) + in_rate) * bands + np.minimum(pairs.band, bands - 1)
    groups = len(periods) * len(rates) * bands
    tallied = np.bincount(of_pair, np.where(there, pairs.count, 0.0), groups)
    known = tallied[of_cell] > 0.0
    cells = replace(cells, agreed=np.where(known, cells.agreed, 0.0), disagreed=np.where(known, cells.disagreed, 0.0))
    weights = comparison_weights(cells)
    counted = cells.by_band(weights * cells.compared, bands)
    share = covered_shares(cells.by_band(cells.requests, bands), counted > 0.0)
    each = np.divide(share, counted, out=np.zeros(bands), where=counted > 0.0)[cells.band] * weights
    stands_for = np.bincount(of_cell, each * cells.compared, groups) / np.where(tallied > 0.0, tallied, 1.0)
    total = float(stands_for @ tallied)
    return np.where(there, stands_for[of_pair] / total, 0.0) if total > 0.0 else np.zeros(len(pairs))


def _places(known: Floats, values: Floats) -> Ints:
    """Return where each value is in `known`, which is sorted; anywhere if it is not in it."""
    return np.minimum(np.searchsorted(known, values), len(known) - 1)


def directions(pairs: Pairs, weights: Floats, most: int = 10, level: float = 0.95) -> list[Direction]:
    """Return the `most` frequent directions of disagreement, and one for all others if there are more.

    `weights` [P] are those of `pair_weights`. Raises ValueError if `level` is not in (0, 1).
    """
    apart = pairs.student != pairs.teacher
    if not (weights * pairs.count)[apart].any():
        return []
    students = int(pairs.student.max()) + 1
    kinds, kind = np.unique((pairs.teacher * students + pairs.student)[apart], return_inverse=True)
    ratio = np.bincount(kind, (weights * pairs.count)[apart], len(kinds))
    order = np.argsort(-ratio, kind="stable")
    place = np.empty(len(kinds), dtype=np.int64)
    place[order] = np.minimum(np.arange(len(kinds)), most)
    listed = min(len(kinds), most + 1)
    hits, squares, count = _sums(place[kind], weights[apart], pairs.count[apart], listed)
    n, square = (float(weights**power @ pairs.count) for power in (1, 2))
    lower, upper = _interval(hits, squares, np.full(listed, n), np.full(listed, square), level)
    found = []
    for at in range(listed):
        teacher, student = divmod(int(kinds[order[at]]), students) if at < most else (None, None)
        found.append(
            Direction(teacher, student, float(hits[at] / n), float(lower[at]), float(upper[at]), int(count[at]))
        )
    return found


def classes(pairs: Pairs, weights: Floats, level: float = 0.95) -> list[ClassGap]:
    """Return the gap within each class that the student chose, the highest lower bound first.

    `weights` [P] are those of `pair_weights`. Raises ValueError if `level` is not in (0, 1).
    """
    if not weights.any():
        return []
    chosen, apart = pairs.student, pairs.student != pairs.teacher
    kinds = int(chosen.max()) + 1
    n, square, compared = _sums(chosen, weights, pairs.count, kinds)
    hits, squares, _ = _sums(chosen[apart], weights[apart], pairs.count[apart], kinds)
    lower, upper = _interval(hits, squares, n, square, level)
    found = [
        ClassGap(at, float(n[at]), float(hits[at] / n[at]), float(lower[at]), float(upper[at]), int(compared[at]))
        for at in np.flatnonzero(n > 0.0).tolist()
    ]
    return sorted(found, key=lambda one: -one.lower)


def _sums(kind: Ints, weights: Floats, count: Floats, kinds: int) -> tuple[Floats, Floats, Floats]:
    """Return, per kind, the sums of the weights and of their squares over the comparisons, and their number."""
    first, second, number = (
        np.bincount(kind, values * count, kinds).astype(np.float64)
        for values in (weights, weights**2, np.sign(weights))
    )
    return first, second, number


def _interval(hits: Floats, squares: Floats, n: Floats, square: Floats, level: float) -> tuple[Floats, Floats]:
    """Return Wilson's limits of hits / n, at its effective sample size.

    `hits` and `n` are sums of weights over the comparisons with and without the property, `squares` and `square` those
    of the squared weights. The effective size is that of `comparison_weights`: p (1 − p) over the linearised variance,
    with half a comparison that has the property added, and half one that has not.
    """
    kish = np.divide(n**2, square, out=np.ones_like(n), where=square > 0.0)
    ratio = np.divide(hits, n, out=np.zeros_like(n), where=n > 0.0)
    p = (ratio * kish + 0.5) / (kish + 1.0)
    q = (np.divide(squares, square, out=np.zeros_like(n), where=square > 0.0) * kish + 0.5) / (kish + 1.0)
    size = kish * p * (1.0 - p) / (q * (1.0 - p) ** 2 + (1.0 - q) * p**2)
    return stratified_wilson(np.ones((len(n), 1)), ratio[:, None], size[:, None], normal_quantile(level))
