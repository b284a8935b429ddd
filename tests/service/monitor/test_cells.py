from __future__ import annotations

import dataclasses
from dataclasses import fields

import numpy as np
import pytest

from service.monitor.cells import SLOT_SECONDS, Cells

CELLS = Cells.of(
    slot=[0, 3 * SLOT_SECONDS, 4 * SLOT_SECONDS],
    band=[1, 0, 1],
    propensity=[0.5, 0.02, 0.5],
    requests=[10, 100, 20],
    expected=[1.0, 2.0, 3.0],
    sampled=[5, 3, 9],
    lost=[1, 0, 2],
    agreed=[3, 2, 4],
    disagreed=[1, 0, 2],
)


def test_a_window_is_the_cells_of_its_slots():
    assert CELLS.since(3 * SLOT_SECONDS).requests.tolist() == [100, 20]
    assert len(CELLS.since(5 * SLOT_SECONDS)) == 0
    assert len(CELLS.since(0)) == len(CELLS) == 3


def test_what_is_neither_lost_nor_compared_is_pending():
    assert CELLS.compared.tolist() == [4, 2, 6]
    assert CELLS.pending.tolist() == [0, 1, 1]


def test_sums_per_band_include_bands_without_cells():
    assert CELLS.by_band(CELLS.requests, 3).tolist() == [100, 30, 0]
    assert Cells.zeros().by_band(Cells.zeros().requests, 2).tolist() == [0, 0]
    with pytest.raises(ValueError, match="a band 1, expected 1 bands"):
        CELLS.by_band(CELLS.requests, 1)


def test_cells_of_two_pods_add_up():
    both = CELLS + CELLS.since(3 * SLOT_SECONDS) + Cells.zeros()
    assert len(both) == 5
    assert both.by_band(both.sampled, 2).tolist() == [6, 23]


def test_single_numbers_are_repeated_and_fields_left_out_are_zero():
    cells = Cells.of(band=[0, 1], requests=7)
    assert cells.requests.tolist() == [7, 7]
    assert cells.propensity.tolist() == [1, 1]
    assert cells.band.dtype == np.int64
    assert all(len(getattr(cells, item.name)) == 2 for item in fields(cells))
    assert len(Cells.of(requests=3)) == 1
    with pytest.raises(TypeError, match="no request"):
        Cells.of(request=1)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"requests": [-1.0]}, "requests must be finite and >= 0"),
        ({"agreed": [np.nan]}, "agreed must be finite and >= 0"),
        ({"slot": [np.inf]}, "slot must be finite and >= 0"),
        ({"band": [0.5]}, "a band a whole number"),
        ({"band": [-1]}, "band must be finite and >= 0"),
        ({"propensity": [0.0]}, r"propensity must be in \(0, 1\]"),
        ({"propensity": [1.5]}, r"propensity must be in \(0, 1\]"),
        ({"expected": [1.0]}, "expected must not exceed requests"),
        ({"lost": [1.0], "disagreed": [1.0], "sampled": [1.0]}, "must not exceed sampled"),
        ({"slot": [[0.0]]}, "one number per cell"),
    ],
)
def test_impossible_counts_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        Cells.of(**counts)


def test_fields_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="expected must have one number per cell"):
        dataclasses.replace(CELLS, expected=np.zeros(2))
