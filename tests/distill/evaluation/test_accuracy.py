"""Macro-F1 and McNemar's test equal a recount by hand."""

import numpy as np
import pytest

from distill.evaluation.accuracy import accuracies, macro_f1, mcnemar

GOLD = np.array([0, 0, 0, 1, 1, 2])
TEACHER = np.array([0, 0, 1, 1, 1, 2])
STUDENT = np.array([0, 1, 1, 1, 0, 3])


def f1(chosen, gold, label):
    hits = sum(one == two == label for one, two in zip(chosen, gold, strict=True))
    return 2 * hits / ((chosen == label).sum() + (gold == label).sum())


@pytest.mark.parametrize("chosen", [TEACHER, STUDENT])
def test_macro_f1_is_the_mean_over_the_classes_that_occur(chosen):
    expected = np.mean([f1(chosen, GOLD, label) for label in sorted({*chosen, *GOLD})])
    found = macro_f1(chosen, GOLD)
    assert found.value == pytest.approx(expected)
    assert found.lower <= found.value <= found.upper


def test_macro_f1_has_an_interval_that_holds_the_truth_most_of_the_time():
    generator = np.random.default_rng(0)
    held = 0
    for seed in range(20):
        gold = generator.integers(0, 4, size=300)
        chosen = np.where(generator.random(300) < 0.8, gold, generator.integers(0, 4, size=300))
        found = macro_f1(chosen, gold, seed=seed)
        held += found.lower <= 0.85 <= found.upper  # 0.8 + 0.2 / 4, as every class is alike
    assert held >= 16


def test_mcnemar_is_the_exact_binomial_test_of_the_rows_on_which_one_alone_is_right():
    teacher = np.array([True] * 12 + [False] * 3)
    student = np.array([True] * 4 + [False] * 8 + [True] * 2 + [False])
    found = mcnemar(teacher, student)
    assert (found.teacher_only, found.student_only) == (8, 2)
    assert found.p_value == pytest.approx(2 * (1 + 10 + 45) / 2**10)  # 0, 1 or 2 of 10 tosses, on either side
    assert mcnemar(teacher, teacher).p_value == 1


def test_accuracies_are_shares_of_gold():
    found = accuracies(TEACHER, STUDENT, GOLD)
    assert (found.teacher.value, found.student.value) == (pytest.approx(5 / 6), pytest.approx(2 / 6))
    assert found.retention.value == pytest.approx(2 / 5)
    assert found.loss.value == pytest.approx(1 / 2)
    assert (found.mcnemar.teacher_only, found.mcnemar.student_only) == (3, 0)
