"""The gap over time, for a chart: one estimate per step, all in one go."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from service.monitor.cells import Cells, Floats
from service.monitor.gap import covered_shares, double_sampling, stratified_wilson, widened
from service.monitor.means import normal_quantile
from service.monitor.weights import comparison_weights


@dataclass(frozen=True, eq=False)
class Series:
    """P steps in a row; every field has shape [P], and is NaN where it is not known.

    `time` is the start of the step in Unix seconds; `gap`, `lower` and `upper` are as in `estimate`; `expected` is the
    gap that confidence foretells.
    """

    time: Floats
    gap: Floats
    lower: Floats
    upper: Floats
    expected: Floats
    requests: Floats
    compared: Floats


def gap_series(cells: Cells, start: float, step: float, points: int, level: float = 0.95) -> Series:
    """Return the gap in `points` steps of `step` seconds from `start` (Unix seconds), as `estimate` would find it.

    Raises ValueError if `level` is not in (0, 1).
    """
    quantile = normal_quantile(level)
    time = start + step * np.arange(points, dtype=np.float64)
    cells = cells.where((cells.slot >= start) & (cells.slot < start + step * points))
    bands = int(cells.band.max()) + 1 if len(cells) else 1
    # Bands of different steps are different strata.
    point = ((cells.slot - start) // step).astype(np.int64)
    cells = replace(cells, band=point * bands + cells.band)

    def per_band(values: Floats) -> Floats:
        return cells.by_band(values, points * bands).reshape(points, bands)

    weights = comparison_weights(cells)
    requests, n = per_band(cells.requests), per_band(weights * cells.compared)
    covered = np.asarray((requests > 0.0) & (n > 0.0))
    known = covered.any(axis=1)
    share = np.where(known.reshape(-1, 1), covered_shares(requests, covered), 1.0 / bands)
    ratio = np.minimum(np.divide(per_band(weights * cells.disagreed), n, out=np.zeros_like(n), where=covered), 1.0)
    gap, between = double_sampling(share, ratio, requests)
    ends = stratified_wilson(share, ratio, np.where(covered, n, 1.0), quantile)
    lower, upper = widened(gap, between, ends, quantile)
    total = requests.sum(axis=1)
    return Series(
        time=time,
        gap=np.where(known, gap, np.nan),
        lower=np.where(known, lower, np.nan),
        upper=np.where(known, upper, np.nan),
        expected=np.divide(per_band(cells.expected).sum(axis=1), total, out=np.full(points, np.nan), where=total > 0.0),
        requests=total,
        compared=per_band(cells.compared).sum(axis=1),
    )
