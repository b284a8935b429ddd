"""Scaling finds what was there and does no harm where nothing was, and calibration error is what it is by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.special import softmax

from distill.evaluation.calibration import (
    LEAST_PER_LABEL,
    LEAST_ROWS,
    calibrate,
    calibrate_scaling,
    calibrate_temperature,
    confidence_bins,
    expected_calibration_error,
    one_hot,
    too_few_rows,
)
from distill.teachers.scaling import Scaling


def drawn(temperature: float, rows: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes drawn from them at a temperature."""
    generator = np.random.default_rng(5)
    logits = generator.normal(scale=3, size=(rows, 4)).astype(np.float32)
    cumulative = softmax(logits / temperature, axis=1).cumsum(axis=1)
    return logits, (generator.random((rows, 1)) > cumulative[:, :-1]).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_recovered_from_classes(temperature):
    logits, classes = drawn(temperature)
    assert calibrate_temperature(logits, one_hot(classes, 4)) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 6.0])
def test_a_known_temperature_is_recovered_from_distributions(temperature):
    logits = np.random.default_rng(0).normal(scale=2, size=(200, 5))
    assert calibrate_temperature(logits, softmax(logits / temperature, axis=1)) == pytest.approx(temperature, rel=1e-3)


def test_the_temperature_stays_in_its_range():
    logits = np.array([[5.0, 0.0], [0.0, 5.0]])
    always_right, always_wrong = one_hot(np.array([0, 1]), 2), one_hot(np.array([1, 0]), 2)
    assert 0.05 <= calibrate_temperature(logits, always_right) < 0.2  # where the loss is flat, near the end
    assert calibrate_temperature(logits, always_wrong) == pytest.approx(20, rel=0.01)


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


# Teachers, calibrated on gold labels


def taught(
    rows: int, classes: int, seed: int, *, sure: float = 2.0, bias: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """What a teacher says, and gold labels drawn from softmax(log p / sure + bias): `sure` 2 is overconfident."""
    generator = np.random.default_rng(seed)
    about = generator.integers(0, classes, rows)
    true = generator.normal(size=(rows, classes)) + 4.5 * np.eye(classes)[about]
    said = softmax(sure * true, axis=1).astype(np.float32)
    cumulative = softmax(np.log(said) / sure + bias, axis=1).cumsum(axis=1)
    return said, (generator.random((rows, 1)) > cumulative[:, :-1]).sum(axis=1)


def log_loss(probabilities: np.ndarray, gold: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(gold)), gold]).mean())


def error(probabilities: np.ndarray, gold: np.ndarray) -> float:
    return expected_calibration_error(probabilities.max(1), probabilities.argmax(1) == gold)


@pytest.mark.parametrize("sure", [0.6, 1.0, 2.5])
def test_a_teachers_temperature_is_recovered_from_gold_labels(sure):
    result = calibrate(*taught(2000, 8, 1, sure=sure), "temperature")
    assert result.scaling.as_dict() == {"method": "temperature", "temperature": pytest.approx(sure, rel=0.08)}


def test_a_scale_and_a_bias_for_each_label_are_recovered():
    bias = np.array([1.0, -1.0, 0.5, -0.5])
    scaling = calibrate_scaling(*taught(20_000, 4, 2, bias=bias), "vector")
    np.testing.assert_allclose(scaling.scale, 0.5, rtol=0.08)
    np.testing.assert_allclose(np.array(scaling.bias) - np.mean(scaling.bias), bias, atol=0.1)


@pytest.mark.parametrize("wanted", ["auto", "temperature", "vector"])
@pytest.mark.parametrize("bias", [0.0, np.array([1.5, -1.5, 0, 0, 1, -1])])
def test_an_overconfident_teacher_is_better_calibrated_on_fresh_rows(wanted, bias):
    said, gold = taught(20_000, 6, 4, bias=bias)
    for seed in range(3):
        scaling = calibrate(*taught(300, 6, 10 + seed, bias=bias), wanted).scaling
        assert log_loss(scaling.apply(said), gold) < log_loss(said, gold) - 0.03
        assert error(scaling.apply(said), gold) < error(said, gold)


@pytest.mark.parametrize("classes", [3, 20])
def test_a_calibrated_teacher_is_left_as_it_was_but_for_noise(classes):
    fresh, gold = taught(20_000, classes, 5, sure=1.0)
    losses = []
    for seed in range(12):
        scaling = calibrate(*taught(250, classes, 30 + seed, sure=1.0)).scaling
        losses.append(log_loss(scaling.apply(fresh), gold) - log_loss(fresh, gold))
    # One parameter of N rows costs 1 / 2N nats on average, and its chi-squared varies.
    assert np.mean(losses) < 4 / (2 * 250)
    assert max(losses) < 0.025


def test_a_teacher_that_is_always_right_is_made_surer_but_not_certain():
    said = (0.05 + 0.85 * np.eye(3)[np.arange(LEAST_ROWS) % 3]).astype(np.float32)
    (top,) = set(calibrate(said, np.arange(LEAST_ROWS) % 3, "temperature").scaling.apply(said).max(1).tolist())
    assert 0.95 < top < 0.9999


@pytest.mark.parametrize(("classes", "rows"), [(4, 200), (15, 300)])
def test_a_temperature_is_chosen_where_labels_are_alike(classes, rows):
    chosen = [calibrate(*taught(rows, classes, seed)).scaling.method for seed in range(8)]
    assert chosen.count("temperature") >= 7


@pytest.mark.parametrize(("classes", "rows"), [(4, 300), (12, 900)])
def test_a_vector_is_chosen_where_labels_differ(classes, rows):
    bias = np.resize([1.2, -1.2, 0.4], classes)
    result = [calibrate(*taught(rows, classes, seed, bias=bias)) for seed in range(5)]
    assert [one.scaling.method for one in result] == ["vector"] * 5
    assert "gains" in result[0].reason


def test_a_vector_must_gain_more_than_a_standard_error():
    found = {}
    for seed in (0, 8, 11):  # gains of less than one standard error, next to none, and little more than one
        result = calibrate(*taught(300, 4, seed, bias=np.array([0.5, -0.5, 0.3, -0.3])))
        gain, error_of_it = map(float, re.findall(r"-?\d+\.\d+", result.reason))
        assert result.scaling.method == ("vector" if gain > error_of_it else "temperature")
        found[seed] = gain / error_of_it
    assert 0 < found[8] < found[0] < 1 < found[11] < 1.5


def test_rows_held_out_promise_what_fresh_rows_keep():
    """Folds with equal shares of every label would have the sample's chance in common, and reward a bias for it."""
    fresh, gold = taught(8000, 20, 999)
    excess = []
    for seed in range(8):
        vector, temperature = (calibrate(*taught(300, 20, seed), wanted) for wanted in ("vector", "temperature"))
        promised = vector.log_loss.after.value - temperature.log_loss.after.value
        kept = [log_loss(one.scaling.apply(fresh), gold) for one in (vector, temperature)]
        excess.append(promised - (kept[0] - kept[1]))
    assert np.mean(excess) > -0.01


def test_a_label_with_too_few_rows_leaves_the_temperature():
    said, gold = taught(600, 4, 0, bias=np.array([2.0, -2.0, 0, 0]))
    rare = np.flatnonzero(gold == 1)
    kept = np.setdiff1d(np.arange(600), rare[LEAST_PER_LABEL - 1 :])
    result = calibrate(said[kept], gold[kept])
    assert result.scaling.method == "temperature"
    assert "fewer than 10 gold rows" in result.reason
    assert calibrate(said, gold).scaling.method == "vector"


def test_what_calibration_did_is_measured_on_rows_held_out():
    said, gold = taught(500, 30, 8)
    result = calibrate(said, gold, "vector")
    assert result.rows == 500
    assert result.log_loss.before.value == pytest.approx(log_loss(said, gold), rel=1e-4)
    assert result.calibration_error.before.value == pytest.approx(error(said, gold))
    assert result.accuracy.before.value == (said.argmax(1) == gold).mean()
    assert result.log_loss.after.value > log_loss(result.scaling.apply(said), gold) + 0.03  # in-sample is flattering
    assert result.saved.value == pytest.approx(result.log_loss.before.value - result.log_loss.after.value)


def test_the_intervals_hold_what_fresh_rows_show():
    hits = np.zeros(3)
    fresh, gold = taught(20_000, 6, 99)
    for seed in range(25):
        result = calibrate(*taught(300, 6, 100 + seed), "temperature", seed=seed)
        scaled = result.scaling.apply(fresh)
        before, after = log_loss(fresh, gold), log_loss(scaled, gold)
        truths = (before, after, before - after)
        intervals = (result.log_loss.before, result.log_loss.after, result.saved)
        hits += [one.lower <= truth <= one.upper for one, truth in zip(intervals, truths, strict=True)]
    assert np.all(hits >= 25 * 0.95 - 4 * np.sqrt(25 * 0.95 * 0.05))


def test_the_seed_decides_the_folds():
    said, gold = taught(300, 6, 1)
    one, same, other = (calibrate(said, gold, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.log_loss.after != other.log_loss.after
    assert one.scaling == other.scaling


@pytest.mark.parametrize(
    ("counts", "wanted", "said"),
    [
        ([50, 49], "temperature", r"99 gold rows, and a temperature needs 100 at least"),
        ([50, 49], "auto", "99 gold rows"),
        ([90, 9, 9, 50], "vector", "2 of 4 labels have fewer than 10 gold rows"),
    ],
)
def test_too_few_rows_are_named_with_the_reason(counts, wanted, said):
    assert too_few_rows(np.array(counts), wanted).startswith(said)


@pytest.mark.parametrize(("counts", "wanted"), [([50, 50], "auto"), ([100, 0], "temperature"), ([90, 10], "vector")])
def test_enough_rows_are_enough(counts, wanted):
    assert too_few_rows(np.array(counts), wanted) is None


def test_a_teacher_that_shows_nothing_of_a_label_can_be_calibrated():
    said, gold = taught(300, 4, 3)
    said[:, 3] = 0
    said /= said.sum(axis=1, keepdims=True)
    for wanted in ("temperature", "vector"):
        scaled = calibrate_scaling(said, gold, wanted).apply(said)
        assert np.isfinite(scaled).all()


def test_a_vector_without_evidence_is_the_temperature():
    said, gold = taught(300, 4, 3)
    vector, temperature = (
        calibrate_scaling(said[:3], gold[:3], "vector"),
        calibrate_scaling(said[:3], gold[:3], "temperature"),
    )
    np.testing.assert_allclose(vector.apply(said), temperature.apply(said), atol=0.15)
    assert isinstance(vector, Scaling)
