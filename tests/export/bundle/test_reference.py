"""The reference says how often a student disagrees with its teacher, and never less than it does."""

import dataclasses
import io
import zipfile

import numpy as np
import pytest
from scipy.stats import beta

from export.bundle.format import REFERENCE
from export.bundle.reference import Reference
from export.fit_reference import BAND_EDGES, fit_reference

BANDS = len(BAND_EDGES) + 1


def confidences(generator, count):
    """Top probabilities as students have them: most near 1, some far below."""
    return 1 - 0.8 * generator.beta(0.4, 2.5, size=count)


def calibrated(top):
    return (1 - top) * 0.7


def overconfident(top):
    return 0.03 + (1 - top) * 0.5


def constant(top):
    return np.full(len(top), 0.1)


def step(top):
    return np.where(top > 0.9, 0.001, 0.4)


def draw(seed, count, truth):
    generator = np.random.default_rng(seed)
    top = confidences(generator, count)
    return top, generator.random(count) < truth(top)


def expected(reference, top):
    return np.array([reference.expected_disagreement(value) for value in top])


def arrays(reference):
    """The names of the arrays that every reference has."""
    return [item.name for item in dataclasses.fields(reference) if item.default is dataclasses.MISSING]


@pytest.fixture(scope="module")
def reference():
    """One fitted to 2000 rows."""
    return fit_reference(*draw(0, 2000, calibrated))


@pytest.mark.parametrize("truth", [calibrated, overconfident, constant, step])
def test_the_expected_disagreement_recovers_the_truth(truth):
    fitted = fit_reference(*draw(1, 20_000, truth))
    top = confidences(np.random.default_rng(2), 2000)
    error = expected(fitted, top) - truth(top)
    assert np.sqrt(np.mean(error**2)) < 0.02
    assert abs(error.mean()) < 0.01


@pytest.mark.parametrize(("truth", "count"), [(calibrated, 400), (overconfident, 400), (constant, 2000), (step, 400)])
def test_the_nulls_of_all_bands_hold_at_once_in_95_of_100_simulations(truth, count):
    traffic = confidences(np.random.default_rng(3), 20_000)
    rate = truth(traffic)
    held = []
    for seed in range(200):
        fitted = fit_reference(*draw(seed, count, truth))
        band = np.searchsorted(fitted.edges, np.interp(traffic, fitted.confidence, fitted.disagreement), side="right")
        rows = np.bincount(band, minlength=BANDS)
        true = np.bincount(band, weights=rate, minlength=BANDS) / np.maximum(rows, 1)
        held.append(bool((true <= fitted.null).all()))
    assert np.mean(held) >= 0.95


def test_a_null_notices_a_disagreement_that_doubled(reference):
    rate = reference.disagreements / np.maximum(reference.rows, 1)
    common = reference.rows > 200
    assert common.any()
    assert (reference.null < 2 * rate + 0.02)[common].all()
    assert (reference.null > rate).all()


def test_counts_shares_and_gap_are_those_of_validation():
    top, disagree = draw(4, 3000, calibrated)
    fitted = fit_reference(top, disagree)
    assert fitted.rows.sum() == 3000
    assert fitted.disagreements.sum() == disagree.sum()
    assert fitted.gap == pytest.approx(disagree.mean())
    assert fitted.share.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(fitted.share, fitted.rows / 3000)
    placed = np.bincount([fitted.band(value) for value in expected(fitted, top)], minlength=BANDS)
    np.testing.assert_array_equal(placed, fitted.rows)
    assert fitted.bands == BANDS


def test_expected_disagreement_never_rises_with_confidence(reference):
    values = expected(reference, np.linspace(0, 1, 2001))
    assert (np.diff(values) <= 0).all()
    assert ((values > 0) & (values < 1)).all()
    assert (np.diff(reference.confidence) > 0).all()
    assert (np.diff(reference.disagreement) <= 0).all()


def test_a_band_is_found_by_its_edges(reference):
    assert [reference.band(value) for value in (0.0, 0.0009, 0.001, 0.004, 0.05, 0.2, 0.35, 0.9)] == [
        *(0, 0, 1, 2, 5, 7, 9, 9)
    ]


def test_the_spread_is_the_standard_deviation_within_the_band():
    top, disagree = draw(5, 4000, calibrated)
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
    np.testing.assert_allclose(expected(one, [1.0, 0.9, 0.6]), [0.1, 0.2, 0.5])


def test_a_confidence_counts_by_its_rows():
    """More disagreement at 0.9 than at 0.6 is pooled to one rate: that of all rows, not the mean of two rates."""
    fitted = fit_reference(np.repeat([0.9, 0.6], [90, 10]), np.arange(100) < 20)
    np.testing.assert_allclose(expected(fitted, [0.9, 0.6]), [0.2, 0.2])


def test_a_validation_split_without_a_disagreement_does_not_promise_that_there_is_none():
    top = confidences(np.random.default_rng(7), 499)
    fitted = fit_reference(top, np.zeros(499, dtype=bool))
    np.testing.assert_allclose(expected(fitted, top), 0.001)  # Jeffreys: (0 + ½) / (499 + 1)
    assert fitted.gap == 0
    assert 0.005 < fitted.null[1] < 0.02
    assert fitted.share.tolist() == [0, 1, *[0] * 8]


def test_a_validation_split_without_an_agreement_is_fitted_too():
    top = confidences(np.random.default_rng(8), 49)
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
    np.testing.assert_allclose(expected(fitted, [0.99, 0.9]), 0.01)


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
        null = fit_reference(*draw(seed, 400, overconfident)).null
        assert (np.diff(null) >= 0).all()


def test_every_value_is_a_number_in_its_range():
    for seed, count in [(0, 3), (1, 10), (2, 40), (3, 400)]:
        fitted = fit_reference(*draw(seed, count, overconfident))
        for name in arrays(fitted):
            assert np.isfinite(getattr(fitted, name)).all(), name
        assert ((fitted.null > 0) & (fitted.null <= 1)).all()
        assert ((fitted.spread >= 0) & (fitted.spread <= 0.5)).all()


def test_other_edges_make_other_bands():
    top, disagree = draw(10, 500, calibrated)
    fitted = fit_reference(top, disagree, edges=(0.05,))
    assert fitted.bands == 2
    assert fitted.band(0.04) == 0
    assert fitted.band(0.05) == 1


def test_what_was_written_is_read(reference, tmp_path):
    (tmp_path / REFERENCE).write_bytes(reference.to_bytes())
    loaded = Reference.load(tmp_path / REFERENCE)
    for name in arrays(reference):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(reference, name))
        assert getattr(loaded, name).dtype == np.float64
    assert (loaded.slo, loaded.tolerated) == (reference.slo, reference.tolerated)


def test_a_bundle_of_an_earlier_version_gets_its_slo_from_its_counts(reference, tmp_path):
    path = tmp_path / REFERENCE
    with np.load(io.BytesIO(reference.to_bytes())) as stored:
        np.savez(path, **{name: stored[name] for name in stored if name not in ("slo", "tolerated")})
    loaded = Reference.load(path)
    assert loaded.slo == reference.slo
    assert loaded.tolerated == reference.tolerated


def test_the_slo_that_a_bundle_was_shipped_with_is_kept(reference, tmp_path):
    (tmp_path / REFERENCE).write_bytes(dataclasses.replace(reference, slo=0.03).to_bytes())
    assert Reference.load(tmp_path / REFERENCE).slo == 0.03


def test_the_slo_is_a_point_above_the_clopper_pearson_bound(reference):
    wrong = reference.disagreements.sum()
    assert reference.slo == pytest.approx(beta.ppf(0.95, wrong + 1, 2000 - wrong) + 0.01)


def test_the_tolerated_gap_is_that_of_every_band_at_its_ceiling(reference):
    assert reference.tolerated == pytest.approx(float(reference.share @ reference.null))


def test_equal_references_have_equal_bytes_at_any_time(reference, monkeypatch):
    before = reference.to_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert reference.to_bytes() == before
    assert {entry.date_time[0] for entry in zipfile.ZipFile(io.BytesIO(before)).infolist()} == {1980}


def test_a_bundle_has_the_reference_it_was_written_with(tiny_bundle):
    assert Reference.open(tiny_bundle).rows.sum() == 400
