"""Labels that were changed on purpose are found, and right ones are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from distill.sufficiency.label_noise import find_suspects


def answers(truth, labels, generator, right=0.9):
    """Probabilities of a model that is right on a share of the rows, and surer there."""
    said = np.where(generator.random(len(truth)) < right, truth, generator.integers(0, labels, len(truth)))
    sharp = generator.uniform(1.5, 5.0, len(truth)) * (1 + (said == truth))
    logits = generator.standard_normal((len(truth), labels)) + sharp[:, None] * np.eye(labels)[said]
    return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("changed", [0.05, 0.15])
def test_most_changed_labels_are_found_with_the_right_one_and_few_others(changed):
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 6, 4000)
    wrong = generator.random(4000) < changed
    given = np.where(wrong, (truth + generator.integers(1, 6, 4000)) % 6, truth)
    found = find_suspects(given, answers(truth, 6, generator))
    assert wrong[found.rows].sum() > 0.8 * wrong.sum()
    assert wrong[found.rows].mean() > 0.5
    assert wrong[found.rows[:50]].mean() > 0.9  # the likeliest come first
    assert (found.likely == truth[found.rows])[wrong[found.rows]].mean() > 0.9


def test_labels_that_no_row_has_do_not_matter():
    generator = np.random.default_rng(1)
    truth = generator.choice([1, 4], 1000)
    given = truth.copy()
    given[:50] = 5 - given[:50]  # the other of the two
    found = find_suspects(given, answers(truth, 7, generator))
    assert (found.rows < 50).sum() > 40
    assert set(found.likely.tolist()) <= {1, 4}


def test_clean_labels_have_few_suspects():
    generator = np.random.default_rng(2)
    truth = generator.integers(0, 4, 2000)
    assert len(find_suspects(truth, answers(truth, 4, generator, right=0.97)).rows) < 40
