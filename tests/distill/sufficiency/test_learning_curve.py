"""The probe learns what texts say, and a learning curve is measured on rows that it did not see."""

from __future__ import annotations

import numpy as np
import pytest

from distill.sufficiency import learning_curve, probe
from distill.sufficiency.learning_curve import FOLDS, SIZES, measure


def texts_of(classes, generator, *, words=40):
    """Texts whose words tell their class, each from a share of the class's words."""
    own = [[f"w{label}x{word}" for word in range(words)] for label in range(max(classes) + 1)]
    return [" ".join([*generator.choice(own[label], 3), *generator.choice(own[0], 3)]) for label in classes]


@pytest.fixture(scope="module")
def world():
    generator = np.random.default_rng(0)
    classes = generator.integers(0, 4, 800)
    return probe.features(texts_of(classes, generator)), classes


def test_more_rows_leave_fewer_errors(world):
    inputs, classes = world
    advanced = []
    curve = measure(inputs, classes, 4, advance=advanced.append)
    mean = curve.errors.mean(axis=0)
    assert curve.errors.shape == (FOLDS, SIZES)
    assert list(curve.sizes) == [80, 135, 226, 381, 640]
    assert mean[0] > mean[-1] + 0.05
    assert sum(advanced) == FOLDS * SIZES


def test_no_row_is_answered_by_a_probe_that_learned_from_it(world):
    inputs, _ = world
    chance = np.random.default_rng(1).integers(0, 4, 800)
    curve = measure(inputs, chance, 4)
    # 1 in 4 is right by chance; a probe that knew its rows would be right on nearly all.
    right = (curve.probabilities.argmax(axis=1) == chance[curve.rows]).mean()
    assert right < 0.35
    assert sorted(curve.rows) == list(range(800))
    assert curve.probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_the_same_seed_gives_the_same_curve(world):
    inputs, classes = world
    one, same, other = (measure(inputs, classes, 4, seed=seed) for seed in (3, 3, 4))
    assert (one.errors == same.errors).all()
    assert (one.errors != other.errors).any()


def test_of_very_many_rows_a_sample_is_measured(world, monkeypatch):
    inputs, classes = world
    monkeypatch.setattr(learning_curve, "MOST_ROWS", 300)
    curve = measure(inputs, classes, 4)
    assert len(curve.rows) == len(set(curve.rows)) == len(curve.probabilities) == 300
    assert curve.sizes[-1] == 240


def test_a_curve_needs_rows(world):
    inputs, classes = world
    with pytest.raises(ValueError, match="expected 200 or more rows, got 100"):
        measure(inputs[:100], classes[:100], 4)


def test_a_label_without_a_row_to_learn_from_gets_no_probability(world):
    inputs, classes = world
    learn, answer = np.flatnonzero(classes < 2), np.arange(20)
    two = probe.train_and_predict(inputs, classes, 4, learn, answer)
    assert two[:, 2:].max() == 0
    assert two.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    one = probe.train_and_predict(inputs, classes, 4, np.flatnonzero(classes == 3), answer)
    assert one.argmax(axis=1).tolist() == [3] * 20


def test_words_are_found_in_scripts_without_spaces_and_in_those_with_marks():
    inputs = probe.features(["订单没有到", "订单退款", "où est mon colis", "où est ma carte"])
    assert (inputs @ inputs.T).toarray()[0, 1] > 0.1
    assert (inputs @ inputs.T).toarray()[2, 3] > 0.1


def test_texts_without_a_word_in_common_are_refused():
    with pytest.raises(ValueError, match="no terms remain"):
        probe.features(["one", "two"])
