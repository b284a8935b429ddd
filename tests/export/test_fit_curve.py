"""The logistic curve of disagreement against confidence; `test_fit_reference` has the isotonic one."""

from __future__ import annotations

import numpy as np
import pytest

from export.fit_curve import isotonic, logistic


def rows(count, seed=0):
    """Return confidences, where the student disagrees, and how often it truly does at each confidence."""
    generator = np.random.default_rng(seed)
    odds = generator.normal(3, 2, size=count)
    truth = 1 / (1 + np.exp(1 + odds))
    return 1 / (1 + np.exp(-odds)), generator.random(count) < truth, truth


def fitted(curve, confidence, disagree):
    return np.interp(confidence, *curve(confidence, disagree))


def test_many_rows_give_the_curve_that_they_were_drawn_from():
    confidence, disagree, truth = rows(100_000)
    assert np.abs(fitted(logistic, confidence, disagree) - truth).max() < 0.01


def test_few_rows_give_a_better_curve_than_a_step_function():
    errors = {logistic: 0.0, isotonic: 0.0}
    for seed in range(20):
        confidence, disagree, truth = rows(300, seed)
        for curve in errors:
            errors[curve] += np.mean((np.sqrt(fitted(curve, confidence, disagree)) - np.sqrt(truth)) ** 2)
    assert errors[logistic] < 0.5 * errors[isotonic]


def test_the_mean_is_nearly_that_of_the_rows():
    confidence, disagree, _ = rows(400)
    assert fitted(logistic, confidence, disagree).mean() == pytest.approx(disagree.mean(), abs=0.003)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rows_that_are_all_alike_promise_nothing(rate):
    found = fitted(logistic, np.linspace(0.2, 1.0, 400), np.full(400, rate > 0.5))
    assert np.abs(found - rate) == pytest.approx(0.5 / 401, abs=3e-3)
    assert ((found > 0) & (found < 1)).all()


@pytest.mark.parametrize(
    "confidence",
    [np.linspace(0.9, 0.1, 100), np.full(100, 0.7), np.repeat([1.0, 0.0], 50)],
    ids=["wrong where it is sure", "one confidence", "zero and one"],
)
def test_disagreement_never_rises_with_confidence(confidence):
    knots, disagreement = logistic(confidence, np.arange(100) < 30)
    assert (np.diff(knots) > 0).all()
    assert (np.diff(disagreement) <= 0).all()
    assert ((disagreement > 0) & (disagreement < 1)).all()
    assert np.interp(confidence, knots, disagreement).mean() == pytest.approx(0.3, abs=0.01)


def test_separated_rows_have_a_finite_slope():
    _, disagreement = logistic(np.linspace(0.0, 1.0, 200), np.arange(200) < 40)
    assert 0.0 < disagreement[-1] < 0.01
    assert 0.99 < disagreement[0] < 1.0
