"""Ceilings bound the rate of disagreement of each band, from the counts of validation or of live comparisons."""

import numpy as np
import pytest
from scipy.stats import beta

from export.bundle.ceilings import ceilings, tightened, upper_bound


@pytest.mark.parametrize(("wrong", "rows"), [(0, 1), (0, 400), (3, 10), (9, 10), (28, 400), (15_000, 300_000)])
@pytest.mark.parametrize("error", [0.05, 0.005])
def test_the_bound_is_that_of_clopper_and_pearson(wrong, rows, error):
    assert upper_bound(wrong, rows, error) == pytest.approx(beta.ppf(1 - error, wrong + 1, rows - wrong))


def test_the_bound_is_one_where_nothing_agreed():
    assert upper_bound(7, 7, 0.05) == upper_bound(0, 0, 0.05) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"), [((3, 2, 0.1), "0 to 2"), ((-1, 2, 0.1), "0 to 2"), ((1, 2, 0), "error")]
)
def test_the_bound_refuses_what_is_no_count_and_no_probability(arguments, message):
    with pytest.raises(ValueError, match=message):
        upper_bound(*arguments)


def test_a_ceiling_is_the_bound_with_few_rows_and_the_tolerance_with_many():
    wrong, rows = np.array([1.0, 30_000.0]), np.array([100.0, 100_000.0])
    found = ceilings(wrong, rows)
    assert found[0] == pytest.approx(beta.ppf(1 - 0.025, 2, 99) + 0.002)
    assert found[1] == pytest.approx(0.3 * 1.25)


def test_a_band_without_rows_has_the_ceiling_of_a_neighbour():
    wrong, rows = np.array([0.0, 0, 0, 20, 0]), np.array([0.0, 500, 0, 100, 0])
    found = ceilings(wrong, rows)
    assert found[0] == found[1] < 0.03
    assert found[2] == found[3] == found[4] < 0.5


def test_a_less_confident_band_bounds_a_more_confident_one():
    found = ceilings(np.array([0.0, 10.0]), np.array([3.0, 1000.0]))
    assert found[0] == found[1] < 0.03


def test_without_any_row_nothing_is_bounded():
    assert ceilings(np.zeros(3), np.zeros(3)).tolist() == [1, 1, 1]
    null = np.array([0.1, 0.2, 0.3])
    assert tightened(null, np.zeros(3), np.zeros(3)).tolist() == null.tolist()


def test_live_comparisons_tighten_a_ceiling_and_never_raise_one():
    null = np.array([0.05, 0.3, 0.9])
    found = tightened(null, np.array([0.0, 150.0, 80.0]), np.array([400.0, 400.0, 200.0]))
    assert found[0] < 0.03
    assert found[1] == 0.3  # twice as bad as allowed: the ceiling stays
    assert 0.4 < found[2] < 0.6
