"""How much one comparison of each cell counts for its band, where sampling rates or the answers of the teacher changed.

Within a band, requests of a time with a low sampling rate are rarer among the comparisons than among the requests, and
so are those of an hour in which the teacher answered less, as when its budget was spent. Weights make up for both.
"""

from __future__ import annotations

import numpy as np

from service.monitor.cells import Cells, Floats

HOUR = 3600.0


def comparison_weights(cells: Cells) -> Floats:
    """Return the weight of one comparison in each cell, shape [C], such that sums over a band are effective counts.

    A comparison counts w = a / π, with the propensity π and the response adjustment a = (compared + lost) / compared of
    its hour and band, both in units of 1 / π. It assumes that within an hour and a band, losses do not depend on the
    outcome. An hour with losses and no comparison is pooled with a near hour of its band that has some. Pending
    requests are no losses.

    Weights are then scaled within each band so that they add up over its comparisons to the effective sample size n for
    which p (1 − p) / n is the linearised variance Σw² (y − p)² / (Σw)² of the weighted disagreement rate p = Σwy / Σw
    (Särndal, Swensson and Wretman 1992, section 5.7), with half a disagreement and half an agreement added. Where
    weights and disagreements are unrelated that is (Σw)² / Σw² (Kish 1965), and with equal weights the plain number.

    0 for cells of a band without a comparison.
    """
    if not len(cells):
        return np.zeros(0)
    inverse = 1.0 / cells.propensity
    compared, ended = cells.compared * inverse, (cells.compared + cells.lost) * inverse
    hours, hour = np.unique(cells.slot // HOUR, return_inverse=True)
    group = cells.band * len(hours) + hour
    groups = (int(cells.band.max()) + 1) * len(hours)
    answered = np.bincount(group, compared, groups).reshape(-1, len(hours))
    due = np.bincount(group, ended, groups).reshape(-1, len(hours))
    lacking = ((due > 0.0) & (answered == 0.0)).any(axis=1) & (answered > 0.0).any(axis=1)
    for band in np.flatnonzero(lacking):
        due[band] = _pooled(answered[band], due[band], hours)
    adjustment = np.divide(due, answered, out=np.zeros_like(due), where=answered > 0.0)
    weight = adjustment.reshape(-1)[group] * inverse

    first, second = (np.bincount(cells.band, weight**power * cells.compared) for power in (1, 2))
    seen = second > 0.0
    first, second = np.where(seen, first, 1.0), np.where(seen, second, 1.0)
    kish = first**2 / second
    # The disagreement rate weighted by w and by w²; where all weights are equal, `spread` is p (1 − p).
    p, q = (
        (np.bincount(cells.band, weight**power * cells.disagreed) / total * kish + 0.5) / (kish + 1.0)
        for power, total in ((1, first), (2, second))
    )
    spread = q * (1.0 - p) ** 2 + (1.0 - q) * p**2
    effective = kish * p * (1.0 - p) / spread
    return np.asarray(weight * np.where(seen, effective / first, 0.0)[cells.band])


def _pooled(answered: Floats, due: Floats, hours: Floats) -> Floats:
    """Return `due` [H] of one band, with that of hours without a comparison moved to the nearest `hours` that have one.

    An hour without losses is taken to be a day further away: hours in which the teacher answered little may well be
    alike in other ways, as busy ones are.
    """
    lacking, having = np.flatnonzero((answered == 0.0) & (due > 0.0)), np.flatnonzero(answered > 0.0)
    further = np.where(due[having] > answered[having], 0.0, 24.0)
    nearest = (np.abs(hours[lacking, None] - hours[having]) + further).argmin(axis=1)
    moved = due.copy()
    moved[lacking] = 0.0
    np.add.at(moved, having[nearest], due[lacking])
    return moved
