"""A reference fitted to validation rows says how often the student disagrees, and what its bands must not exceed."""

import dataclasses
from functools import cache

import numpy as np
import pytest

from export.fit_reference import BAND_EDGES, ceiling_warning, fit_reference
from tests.support.validation import STUDENTS, expected

BANDS = len(BAND_EDGES) + 1
SIMULATIONS = {400: 300, 2000: 150, 10_000: 60}


@cache
def simulated(name, count):
    """References of many splits of `count` rows, by chance above or below the truth, with what their traffic does.

    For each: whether all ceilings are true, the error of the expected gap, and what the ceilings tolerate, in gaps. The
    error is that beyond the chance of the rows: how many more of them disagreed than should have.
    """
    student = STUDENTS[name]
    traffic = student.confidences(np.random.default_rng(0), 30_000)
    rate = student.truth(traffic)
    held, errors, tolerated = [], [], []
    for seed in range(SIMULATIONS[count]):
        top, disagree = student.rows(seed, count)
        fitted = fit_reference(top, disagree)
        placed = expected(fitted, traffic)
        band = np.searchsorted(fitted.edges, placed, side="right")
        rows = np.bincount(band, minlength=BANDS)
        true = np.bincount(band, weights=rate, minlength=BANDS) / np.maximum(rows, 1)
        held.append(bool((true <= fitted.null).all()))
        errors.append(placed.mean() - rate.mean() - (disagree.mean() - student.truth(top).mean()))
        tolerated.append(rows @ fitted.null / len(traffic) / rate.mean())
    return np.array(held), np.array(errors), np.array(tolerated)


@pytest.fixture(scope="module")
def reference():
    """One fitted to 2000 rows."""
    return fit_reference(*STUDENTS["calibrated"].rows(0, 2000))


@pytest.mark.parametrize("name", STUDENTS)
def test_the_expected_disagreement_recovers_the_truth(name):
    student = STUDENTS[name]
    fitted = fit_reference(*student.rows(1, 20_000))
    top = student.confidences(np.random.default_rng(2), 2000)
    error = expected(fitted, top) - student.truth(top)
    assert np.sqrt(np.mean(error**2)) < 0.02
    assert abs(error.mean()) < 0.01


@pytest.mark.parametrize("count", [400, 2000])
@pytest.mark.parametrize("name", STUDENTS)
def test_the_expected_gap_is_the_true_one_but_for_the_chance_of_the_rows(name, count):
    _, errors, _ = simulated(name, count)
    assert abs(errors.mean()) < 0.003


@pytest.mark.parametrize(("name", "count"), [*((name, 400) for name in STUDENTS), ("constant", 2000), ("sure", 10_000)])
def test_the_ceilings_of_all_bands_are_true_at_once_in_95_of_100_simulations(name, count):
    held, _, _ = simulated(name, count)
    assert held.mean() >= 0.95


@pytest.mark.parametrize(("count", "most"), [(400, 2.7), (2000, 1.8), (10_000, 1.5)])
def test_ceilings_tolerate_the_less_the_more_rows_they_were_fitted_to(count, most):
    """The student with the smallest gap is the hardest case: its ceilings are the widest in relation to it."""
    _, _, tolerated = simulated("sure", count)
    assert tolerated.mean() < most


def test_ceilings_that_tolerate_much_more_than_the_gap_are_warned_about():
    few, many = (fit_reference(*STUDENTS["calibrated"].rows(3, count)) for count in (400, 20_000))
    warning = ceiling_warning("small", few)
    assert warning is not None
    assert warning.startswith("small: with 400 validation rows, the ceilings of its confidence bands tolerate")
    assert f"{100 * few.tolerated:.1f} %, where that on validation is {100 * few.gap:.1f} %" in warning
    assert ceiling_warning("small", many) is None


def test_ceilings_below_the_slo_are_not_warned_about():
    perfect = fit_reference(np.linspace(0.5, 1, 400), np.zeros(400, dtype=bool))
    assert ceiling_warning("perfect", dataclasses.replace(perfect, slo=0.03)) is None


def test_a_null_notices_a_disagreement_that_doubled(reference):
    rate = reference.disagreements / np.maximum(reference.rows, 1)
    common = reference.rows > 200
    assert common.any()
    assert (reference.null < 2 * rate + 0.02)[common].all()
    assert (reference.null > rate).all()


def test_counts_shares_and_gap_are_those_of_validation():
    top, disagree = STUDENTS["calibrated"].rows(4, 3000)
    fitted = fit_reference(top, disagree)
    assert fitted.rows.sum() == 3000
    assert fitted.disagreements.sum() == disagree.sum()
    assert fitted.gap == pytest.approx(disagree.mean())
    assert fitted.share.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(fitted.share, fitted.rows / 3000)
    placed = np.bincount([fitted.band(value) for value in expected(fitted, top)], minlength=BANDS)
    np.testing.assert_array_equal(placed, fitted.rows)
    assert fitted.bands == BANDS


def test_the_spread_is_the_standard_deviation_within_the_band():
    top, disagree = STUDENTS["calibrated"].rows(5, 4000)
    fitted = fit_reference(top, disagree)
    values = expected(fitted, top)
    bands = np.array([fitted.band(value) for value in values])
    for band in np.flatnonzero(fitted.rows):
        inside = values[bands == band]
        assert fitted.spread[band] == pytest.approx(np.sqrt(np.mean(inside * (1 - inside))))


def test_rows_of_one_confidence_count_the_same_in_any_order():
    top = np.repeat([1.0, 0.9, 0.6], [100, 50, 30])
    disagree = np.zeros(180, dtype=bool)
    disagree[:10] = disagree[100:110] = disagree[150:165] = True
    order = np.random.default_rng(6).permutation(180)
    one, other = fit_reference(top, disagree), fit_reference(top[order], disagree[order])
    assert one.to_bytes() == other.to_bytes()
    np.testing.assert_allclose(expected(one, np.array([1.0, 0.9, 0.6])), [0.1, 0.2, 0.5])


def test_a_confidence_counts_by_its_rows():
    """More disagreement at 0.9 than at 0.6 is pooled to one rate: that of all rows, not the mean of two rates."""
    fitted = fit_reference(np.repeat([0.9, 0.6], [90, 10]), np.arange(100) < 20)
    np.testing.assert_allclose(expected(fitted, np.array([0.9, 0.6])), [0.2, 0.2])


def test_a_validation_split_without_a_disagreement_does_not_promise_that_there_is_none():
    top = STUDENTS["calibrated"].rows(7, 499)[0]
    fitted = fit_reference(top, np.zeros(499, dtype=bool))
    np.testing.assert_allclose(expected(fitted, top), 0.001)  # Jeffreys: (0 + ½) / (499 + 1)
    assert fitted.gap == 0
    assert 0.005 < fitted.null[1] < 0.02
    assert fitted.share.tolist() == [0, 1, *[0] * 8]


def test_a_validation_split_without_an_agreement_is_fitted_too():
    top = STUDENTS["calibrated"].rows(8, 49)[0]
    fitted = fit_reference(top, np.ones(49, dtype=bool))
    np.testing.assert_allclose(expected(fitted, top), 0.99)
    assert (fitted.null == 1.0).all()
    assert fitted.gap == fitted.slo == 1.0


def test_one_row_is_enough():
    fitted = fit_reference(np.array([0.9]), np.array([False]))
    assert fitted.expected_disagreement(0.2) == fitted.expected_disagreement(1.0) == 0.25


def test_a_smoothed_stretch_does_not_exceed_its_less_confident_neighbour():
    """Nine rows that agree give ½ / 10, but the 1000 rows below them show 0.01."""
    fitted = fit_reference(np.repeat([0.99, 0.9], [9, 1000]), np.arange(1009) >= 999)
    np.testing.assert_allclose(expected(fitted, np.array([0.99, 0.9])), 0.01)


def test_a_band_that_validation_never_met_has_its_neighbours_ceiling_and_the_spread_of_its_edges():
    fitted = fit_reference(np.repeat([0.99, 0.6], [2000, 100]), np.arange(2100) >= 2080)
    empty = fitted.rows == 0
    assert np.flatnonzero(~empty).tolist() == [0, 7]
    assert (fitted.null[1:7] == fitted.null[7]).all()
    assert (fitted.null[8:] == fitted.null[7]).all()
    assert fitted.null.max() < 0.5
    highest = np.array([0.001, 0.004, 0.01, 0.02, 0.05, 0.1, 0.17, 0.25, 0.35, 0.5])
    np.testing.assert_allclose(fitted.spread[empty], np.sqrt(highest * (1 - highest))[empty])
    assert (fitted.disagreements[empty] == 0).all()


def test_no_ceiling_is_above_that_of_a_less_confident_band():
    for seed in range(40):
        null = fit_reference(*STUDENTS["overconfident"].rows(seed, 400)).null
        assert (np.diff(null) >= 0).all()


def test_every_value_is_a_number_in_its_range():
    for seed, count in [(0, 3), (1, 10), (2, 40), (3, 400)]:
        fitted = fit_reference(*STUDENTS["overconfident"].rows(seed, count))
        for name in ("confidence", "disagreement", "share", "spread", "null", "slo", "tolerated"):
            assert np.isfinite(getattr(fitted, name)).all(), name
        assert ((fitted.null > 0) & (fitted.null <= 1)).all()
        assert ((fitted.spread >= 0) & (fitted.spread <= 0.5)).all()


def test_other_edges_make_other_bands():
    top, disagree = STUDENTS["calibrated"].rows(10, 500)
    fitted = fit_reference(top, disagree, edges=(0.05,))
    assert fitted.bands == 2
    assert fitted.band(0.04) == 0
    assert fitted.band(0.05) == 1
