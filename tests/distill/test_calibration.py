"""Temperature scaling finds the temperature that was there, and calibration error is what it is by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from distill.calibration import confidence_bins, expected_calibration_error, fit_temperature, one_hot


def drawn(temperature: float, rows: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes drawn from them at a temperature."""
    generator = np.random.default_rng(5)
    logits = generator.normal(scale=3, size=(rows, 4)).astype(np.float32)
    cumulative = softmax(logits / temperature, axis=1).cumsum(axis=1)
    return logits, (generator.random((rows, 1)) > cumulative[:, :-1]).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_recovered_from_classes(temperature):
    logits, classes = drawn(temperature)
    assert fit_temperature(logits, one_hot(classes, 4)) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 6.0])
def test_a_known_temperature_is_recovered_from_distributions(temperature):
    logits = np.random.default_rng(0).normal(scale=2, size=(200, 5))
    assert fit_temperature(logits, softmax(logits / temperature, axis=1)) == pytest.approx(temperature, rel=1e-3)


def test_the_temperature_stays_in_its_range():
    logits = np.array([[5.0, 0.0], [0.0, 5.0]])
    always_right, always_wrong = one_hot(np.array([0, 1]), 2), one_hot(np.array([1, 0]), 2)
    assert 0.05 <= fit_temperature(logits, always_right) < 0.2  # where the loss is flat, near the end
    assert fit_temperature(logits, always_wrong) == pytest.approx(20, rel=0.01)


def test_calibrated_confidences_have_next_to_no_error():
    logits, classes = drawn(2.0, rows=20_000)
    wrong, right = softmax(logits, axis=1), softmax(logits / 2, axis=1)
    assert expected_calibration_error(right.max(1), right.argmax(1) == classes) < 0.015
    assert expected_calibration_error(wrong.max(1), wrong.argmax(1) == classes) > 0.08


def test_the_error_by_hand():
    always = np.full(10, 0.9)
    assert expected_calibration_error(always, np.arange(10) < 6) == pytest.approx(0.3)
    # Two bins: 2 rows at 0.55, one right (1 against 1.1), and 3 rows at 0.95, two right (2 against 2.85).
    confidence = np.array([0.55, 0.55, 0.95, 0.95, 0.95])
    correct = np.array([True, False, True, True, False])
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx((0.1 + 0.85) / 5)


def test_opposite_errors_in_one_bin_cancel_and_in_two_do_not():
    correct = np.array([True, False])
    assert expected_calibration_error(np.array([0.52, 0.48]), correct, bins=1) == pytest.approx(0)
    assert expected_calibration_error(np.array([0.52, 0.48]), correct, bins=2) == pytest.approx(0.48)


def test_every_confidence_has_a_bin():
    assert confidence_bins(np.array([0.0, 0.09, 0.1, 0.95, 1.0]), bins=10).tolist() == [0, 0, 1, 9, 9]


def test_one_hot_rows():
    assert one_hot(np.array([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
