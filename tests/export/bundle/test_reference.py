"""The reference of a bundle: what it says of an answer, and how it is written and read."""

import dataclasses
import io
import zipfile

import numpy as np
import pytest
from scipy.stats import beta

from export.bundle.format import REFERENCE
from export.bundle.reference import Reference
from export.fit_reference import fit_reference
from tests.support.validation import STUDENTS


def arrays(reference):
    """The names of the arrays that every reference has."""
    return [item.name for item in dataclasses.fields(reference) if item.default is dataclasses.MISSING]


@pytest.fixture(scope="module")
def reference():
    """One fitted to 2000 rows."""
    return fit_reference(*STUDENTS["calibrated"].rows(0, 2000))


def test_expected_disagreement_never_rises_with_confidence(reference):
    values = np.array([reference.expected_disagreement(top) for top in np.linspace(0, 1, 2001)])
    assert (np.diff(values) <= 0).all()
    assert ((values > 0) & (values < 1)).all()
    assert (np.diff(reference.confidence) > 0).all()
    assert (np.diff(reference.disagreement) <= 0).all()


def test_a_band_is_found_by_its_edges(reference):
    assert [reference.band(value) for value in (0.0, 0.0009, 0.001, 0.004, 0.05, 0.2, 0.35, 0.9)] == [
        *(0, 0, 1, 2, 5, 7, 9, 9)
    ]


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
