"""The gap over time: the same estimates as of each step alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from service.monitor.cells import Cells
from service.monitor.gap import estimate
from service.monitor.series import gap_series
from tests.support.gap_worlds import CHANGING, HOUR, worlds


def test_every_step_is_what_its_cells_alone_give() -> None:
    periods = CHANGING["a budget that drops 80 % in busy hours with twice the gap"]
    ((cells, _),) = worlds()["overconfident"].days(periods, 1, seed=1, requests=8000)
    series = gap_series(cells, HOUR, HOUR, 24)
    for point, time in enumerate(series.time):
        alone = estimate(cells.where(cells.slot == time))
        assert alone is not None
        assert (series.gap[point], series.lower[point]) == pytest.approx((alone.gap, alone.lower))
        assert (series.upper[point], series.expected[point]) == pytest.approx((alone.upper, alone.expected_gap))
        assert (series.requests[point], series.compared[point]) == (alone.requests, alone.compared)


def test_steps_hold_whole_slots_and_cells_outside_are_left_out() -> None:
    cells = Cells.of(slot=[0, 600, 900, 1200, 1800], requests=10, sampled=4, agreed=3, disagreed=1)
    series = gap_series(cells, 600.0, 600.0, 2)
    assert series.time.tolist() == [600.0, 1200.0]
    assert series.requests.tolist() == [20, 10]


def test_a_step_without_comparisons_has_no_gap() -> None:
    cells = Cells.of(slot=[300, 600], requests=[10, 0], expected=[1, 0])
    series = gap_series(cells, 300.0, 300.0, 3)
    assert np.isnan(series.gap).all()
    assert np.isnan(series.upper).all()
    assert series.expected[0] == 0.1
    assert math.isnan(series.expected[1])
    assert gap_series(Cells.zeros(), 300.0, 300.0, 3).requests.tolist() == [0, 0, 0]
