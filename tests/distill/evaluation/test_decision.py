"""The gap of decisions counts actions, and judges a classifier by the texts that it decides."""

import numpy as np
import pytest

from distill.evaluation.decision import compare_decisions

ABSTAIN = 2
STUDENT = np.array([0, 0, 1, 1, 2, 2, 0, 1])
TEACHER = np.array([0, 1, 1, 1, 2, 0, 2, 2])
WANTED = np.array([0, 1, 1, 1, 1, 0, 1, 1])
GOLD = np.array([0, 1, 0, 1, 1, 0, 0, 0])


def test_shares_are_of_all_texts_or_of_those_that_each_decides():
    gap = compare_decisions(TEACHER, STUDENT, WANTED, GOLD, ABSTAIN)
    assert gap.agreement.value == 4 / 8
    assert (gap.teacher_decided.value, gap.student_decided.value) == (5 / 8, 6 / 8)
    assert gap.precision.value == 4 / 6
    assert (gap.teacher_accuracy.value, gap.student_accuracy.value) == (4 / 5, 3 / 6)
    assert gap.agreement.lower < 0.5 < gap.agreement.upper
    assert gap.as_dict()["precision"]["value"] == 4 / 6


def test_without_a_human_everything_is_decided():
    gap = compare_decisions(TEACHER % 2, STUDENT % 2, WANTED, None, None)
    assert (gap.teacher_decided.value, gap.student_decided.value) == (1, 1)
    assert gap.student_accuracy is None


def test_where_nothing_is_decided_there_is_no_precision():
    gap = compare_decisions(TEACHER, np.full(8, ABSTAIN), WANTED, GOLD, ABSTAIN)
    assert (gap.precision, gap.student_accuracy) == (None, None)
    assert gap.student_decided.value == 0
    assert gap.teacher_accuracy.value == pytest.approx(0.8)
