"""Each way of training is compared with the distilled student, row by row."""

import numpy as np
import pytest

from distill.evaluation.accuracy import macro_f1
from distill.evaluation.comparisons import compare_ways
from distill.evaluation.intervals import wilson

TEACHER = np.array([0, 0, 1, 1, 2, 2])
GOLD = np.array([0, 0, 1, 1, 2, 0])
SOFT = np.array([0, 0, 1, 1, 2, 1])  # follows the teacher in all but the last row
HARD = np.array([0, 1, 1, 2, 2, 0])  # follows it in three


def test_differences_are_on_the_same_rows():
    found = compare_ways({"soft": SOFT, "hard": HARD}, SOFT, TEACHER, GOLD)
    assert list(found) == ["soft", "hard"]
    assert found["hard"].agreement == wilson(3, 6)
    assert found["hard"].agreement_lost.value == pytest.approx(2 / 6)
    assert found["hard"].accuracy == wilson(4, 6)
    assert found["hard"].accuracy_lost is not None
    assert found["hard"].accuracy_lost.value == pytest.approx(1 / 6)
    assert found["hard"].macro_f1 == macro_f1(HARD, GOLD)
    assert found["soft"].agreement_lost.lower == found["soft"].agreement_lost.upper == 0


def test_without_gold_labels_there_is_agreement_alone():
    found = compare_ways({"hard": HARD}, SOFT, TEACHER, None)["hard"]
    assert found.agreement == wilson(3, 6)
    assert found.accuracy is found.accuracy_lost is found.macro_f1 is None
