"""What two draws say of a teacher, and that no student agrees with it more often than its ceiling."""

from __future__ import annotations

import json

import numpy as np
import pytest

from distill.evaluation.intervals import wilson
from distill.evaluation.self_agreement import CONSTANT, self_agreement


def drawn(choices: np.ndarray, classes: int) -> np.ndarray:
    """Choices [N] as nearly sure distributions [N, K]."""
    rows: np.ndarray = 0.02 + (1 - 0.02 * classes) * np.eye(classes)[choices]
    return rows


def test_two_draws_by_hand():
    first = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
    second = np.array([[0.8, 0.2], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    found = self_agreement(first, second)
    assert found.rows == 4
    assert found.agreement == wilson(3, 4)
    assert found.variation.value == pytest.approx((0.1 + 0.2 + 0.0 + 0.2) / 4)
    assert found.variation.lower <= found.variation.value <= found.variation.upper
    assert found.ceiling.value == pytest.approx((1 + 3 / 4) / 2)
    assert not found.by_construction


def test_equal_draws_leave_no_room():
    rows = drawn(np.arange(400) % 3, 3)
    found = self_agreement(rows, rows.copy())
    assert (found.agreement.value, found.ceiling.value, found.variation.value) == (1, 1, 0)
    assert 0.98 < found.agreement.lower < found.ceiling.lower < 1


def test_the_interval_holds_how_often_the_teacher_agrees_with_itself():
    generator = np.random.default_rng(1)
    runs, hits, variations = 80, 0, 0
    for _ in range(runs):
        odds = generator.dirichlet(np.full(3, 0.3), size=5000)  # what this teacher says to each text of the world
        cumulative = odds.cumsum(axis=1)[:, :-1]
        rows = generator.choice(5000, size=150, replace=False)
        one, other = ((generator.random((150, 1)) > cumulative[rows]).sum(axis=1) for _ in range(2))
        found = self_agreement(drawn(one, 3), drawn(other, 3))
        truth = float((odds**2).sum(axis=1).mean())
        hits += found.agreement.lower <= truth <= found.agreement.upper
        variations += found.variation.lower <= 0.94 * (1 - truth) <= found.variation.upper
    slack = 4 * np.sqrt(0.95 * 0.05 / runs)
    assert abs(hits / runs - 0.95) < slack
    assert abs(variations / runs - 0.95) < slack + 0.01


@pytest.mark.parametrize("orders", [None, 2, 3])
def test_no_student_agrees_more_than_the_ceiling(orders):
    """Draws may be independent, or take turns so that a second is never as the first: the bound holds for both."""
    generator = np.random.default_rng(2)
    odds = generator.dirichlet(np.full(4, 0.7), size=4000)
    cumulative = odds.cumsum(axis=1)[:, :-1, None]
    # What the teacher would say under each order of its codes; the first that is used is drawn for each text.
    said = (generator.random((4000, 1, orders or 40)) > cumulative).sum(axis=1)
    turn = generator.integers(0, said.shape[1], 4000)
    rows = np.arange(4000)
    first, second = said[rows, turn], said[rows, (turn + 1) % said.shape[1]]
    found = self_agreement(drawn(first, 4), drawn(second, 4))
    counts = np.stack([(said == label).sum(axis=1) for label in range(4)], axis=1)
    best = counts.argmax(1)  # no student can know more than how the teacher answers on the whole
    agreement = (best == first).mean()
    assert found.agreement.value < agreement <= found.ceiling.upper
    if orders == 2:  # where the bound is reached
        assert agreement == pytest.approx(found.ceiling.value, abs=0.02)


@pytest.mark.parametrize(("first", "second"), [(np.ones((2, 2)), np.ones((3, 2))), (np.ones((0, 2)), np.ones((0, 2)))])
def test_draws_that_do_not_fit_are_refused(first, second):
    with pytest.raises(ValueError, match="expected two arrays"):
        self_agreement(first, second)


def test_a_teacher_that_always_says_the_same_is_its_own_ceiling():
    found = json.loads(json.dumps(CONSTANT.as_dict()))
    assert found["agreement"] == found["ceiling"] == {"value": 1, "lower": 1, "upper": 1}
    assert (found["rows"], found["by_construction"]) == (0, True)
