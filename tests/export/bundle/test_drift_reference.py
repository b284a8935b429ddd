"""The reference of input drift travels in `reference.npz`, and a file without it still loads."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.bundle.classifier import Prediction
from export.bundle.drift_reference import DriftReference
from export.bundle.format import REFERENCE, Bundle, BundleError, Manifest
from export.bundle.reference import Reference
from export.fit_drift import FEATURES, FEWEST, TEXTS_PER_FEATURE, fit_bins, fit_drift
from export.fit_reference import fit_reference

CLASSES, WIDTH, TEXTS = 4, 24, 300


def answers(count: int = TEXTS, seed: int = 0) -> list[Prediction]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        probabilities = random.dirichlet(np.full(CLASSES, 0.2)).astype(np.float32)
        best = int(probabilities.argmax())
        embedding = random.normal(size=WIDTH).astype(np.float32)
        tokens = int(random.integers(3, 40))
        unknown = int(random.random() < 0.1)
        score = float(probabilities[best])
        made.append(Prediction(probabilities, probabilities, embedding, tokens, False, best, score, unknown))
    return made


@pytest.fixture(scope="module")
def plain() -> Reference:
    random = np.random.default_rng(1)
    top = random.uniform(0.3, 1.0, 400)
    return fit_reference(top, random.random(400) < 1 - top)


@pytest.fixture(scope="module")
def drift(plain: Reference) -> DriftReference:
    fitted = fit_drift(answers(), plain, unknown=True)
    assert fitted is not None
    return fitted


def test_it_counts_every_text_once_per_feature(plain: Reference, drift: DriftReference) -> None:
    expected = [plain.expected_disagreement(answer.score) for answer in answers()]
    assert drift.texts == TEXTS
    for counts in (drift.bands, drift.classes, drift.lengths, drift.unknown):
        assert counts.sum() == TEXTS
    assert drift.expected == pytest.approx([np.mean(expected), np.std(expected)])
    bands = np.bincount([plain.band(value) for value in expected], minlength=plain.bands)
    assert drift.bands.tolist() == bands.tolist()
    assert drift.classes.tolist() == np.bincount([answer.best for answer in answers()], minlength=CLASSES).tolist()


def test_lengths_fall_into_about_equal_bins(drift: DriftReference) -> None:
    assert len(drift.lengths) == 10
    assert np.all(np.abs(drift.lengths / TEXTS - 0.1) < 0.04)


def test_ties_are_merged_and_a_constant_has_a_bin_for_what_is_larger() -> None:
    counts, edges = fit_bins(np.repeat([1.0, 2.0, 3.0, 4.0], [600, 250, 100, 50]))
    assert (counts.tolist(), edges.tolist()) == ([600.0, 250.0, 100.0, 50.0], [1.0, 2.0, 3.0])
    counts, edges = fit_bins(np.zeros(500))
    assert (counts.tolist(), edges.tolist()) == ([500.0, 0.0], [0.0])


def test_features_of_the_reference_texts_are_standardised_by_mean_and_precision(drift: DriftReference) -> None:
    features = drift.features(np.stack([answer.embedding for answer in answers()]))
    size = TEXTS // TEXTS_PER_FEATURE
    assert features.shape == (TEXTS, size)
    assert features.mean(axis=0) == pytest.approx(drift.means, abs=1e-6)
    product = drift.precision.reshape(size, size) @ np.cov(features.T)
    assert product == pytest.approx((TEXTS - size - 2) / (TEXTS - 1) * np.eye(size), abs=0.02)


def test_new_texts_of_the_same_kind_are_at_the_distance_that_chance_explains(drift: DriftReference) -> None:
    size = len(drift.offsets)
    features = drift.features(np.random.default_rng(5).normal(size=(300 * 200, WIDTH)).astype(np.float32))
    differences = features.reshape(200, 300, size).mean(axis=1) - drift.means
    distances = np.einsum("ni,ij,nj->n", differences, drift.precision.reshape(size, size), differences)
    assert distances.mean() == pytest.approx(size * (1 / 300 + 1 / TEXTS), rel=0.25)


def test_texts_that_differ_in_few_directions_have_a_finite_precision(plain: Reference) -> None:
    same = [answer._replace(embedding=np.array([answer.tokens, 0.0, 0.0], dtype=np.float32)) for answer in answers()]
    fitted = fit_drift(same, plain, unknown=True)
    assert fitted is not None
    assert np.isfinite(fitted.precision).all()


def test_equal_embeddings_are_no_reference(plain: Reference) -> None:
    same = [answer._replace(embedding=np.ones(3, dtype=np.float32)) for answer in answers()]
    assert fit_drift(same, plain, unknown=True) is None


def test_the_same_answers_give_the_same_reference(plain: Reference, drift: DriftReference) -> None:
    again = fit_drift(answers(), plain, unknown=True)
    assert again is not None
    assert all(np.array_equal(values, again.arrays()[name]) for name, values in drift.arrays().items())


def test_without_an_unknown_token_there_is_nothing_to_count(plain: Reference) -> None:
    fitted = fit_drift(answers(), plain, unknown=False)
    assert fitted is not None
    assert fitted.unknown.size == 0


def test_a_handful_of_texts_says_nothing(plain: Reference) -> None:
    assert fit_drift(answers(FEWEST - 1), plain, unknown=True) is None
    assert fit_drift(answers(FEWEST), plain, unknown=True) is not None


def test_it_survives_the_file(tmp_path: Path, plain: Reference, drift: DriftReference) -> None:
    file = tmp_path / "reference.npz"
    file.write_bytes(replace(plain, drift=drift).to_bytes())
    loaded = Reference.load(file).drift
    assert loaded is not None
    assert all(np.array_equal(values, loaded.arrays()[name]) for name, values in drift.arrays().items())


def test_a_file_without_it_loads(tmp_path: Path, plain: Reference) -> None:
    file = tmp_path / "reference.npz"
    file.write_bytes(plain.to_bytes())
    assert Reference.load(file).drift is None


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("drift_means", None),
        ("drift_means", np.zeros(3)),
        ("drift_expected", np.array([0.1, -0.1])),
        ("drift_precision", np.zeros(4)),
        ("drift_lengths", np.full(10, -1.0)),
        ("drift_length_edges", np.zeros(9)),
        ("drift_bands", np.full(2, 150.0)),
        ("drift_classes", np.full(CLASSES, 1.0)),
        ("drift_projection", np.zeros(WIDTH * FEATURES + 1)),
        ("drift_unknown", np.full(5, np.nan)),
    ],
)
def test_broken_arrays_are_refused_by_name(
    tmp_path: Path, plain: Reference, drift: DriftReference, name: str, values: np.ndarray | None
) -> None:
    with np.load(io.BytesIO(replace(plain, drift=drift).to_bytes())) as stored:
        arrays = dict(stored)
    arrays.pop(name)
    if values is not None:
        arrays[name] = values
    file = tmp_path / "reference.npz"
    np.savez(file, **arrays)
    with pytest.raises(BundleError, match=f"{name}|drift_offsets"):
        Reference.load(file)


def test_another_number_of_classes_than_the_bundle_has_is_refused(
    tmp_path: Path, plain: Reference, drift: DriftReference
) -> None:
    (tmp_path / REFERENCE).write_bytes(replace(plain, drift=drift).to_bytes())
    labels = tuple(f"class {index}" for index in range(CLASSES))
    manifest = Manifest("tiny", "tiny", labels, 32, "fp32", 1.0, {})
    assert Reference.open(Bundle(tmp_path, manifest)).drift is not None
    with pytest.raises(BundleError, match=r"drift_classes.*3 labels"):
        Reference.open(Bundle(tmp_path, replace(manifest, labels=labels[1:])))
