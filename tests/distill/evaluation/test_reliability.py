"""Reliability equals a recount: the error, its bins, before and after."""

import numpy as np
import pytest

from distill.evaluation.reliability import before_after, reliability

PROBABILITIES = np.array([[0.7, 0.3], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]])
WANTED = np.array([0, 0, 1, 1])  # the second row is wrong


def test_error_and_bins_by_hand():
    # Confidences 0.7, 0.6, 0.8 and 0.9 fall into four bins; all but the second are right.
    found = reliability(PROBABILITIES, WANTED)
    assert found.error.value == pytest.approx((0.3 + 0.6 + 0.2 + 0.1) / 4)
    assert found.error.lower <= found.error.value <= found.error.upper
    expected = [(1, 0.6, 0.0), (1, 0.7, 1.0), (1, 0.8, 1.0), (1, 0.9, 1.0)]
    assert [tuple(row) for row in found.bins] == [pytest.approx(row) for row in expected]


def test_calibration_is_seen_in_the_error():
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(2000, 3))
    right = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    wanted = np.array([generator.choice(3, p=row) for row in right])
    found = before_after(sharp, right, wanted)
    assert found.after.error.upper < 0.05 < found.before.error.lower
    assert sum(rows for rows, _, _ in found.before.bins) == 2000
