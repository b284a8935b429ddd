"""Answers that are no better than one label for everything are said to be so, and others are not."""

from __future__ import annotations

import numpy as np

from distill.evaluation.constant_answers import student_warnings, teacher_warnings

LABELS = ("ham", "spam", "other")


def says(*classes: int) -> np.ndarray:
    return np.eye(3)[list(classes)] * 0.8 + 0.1


def test_a_teacher_with_one_label_for_everything_is_named():
    (warning,) = teacher_warnings(says(1, 1, 1, 1), LABELS)
    assert warning.startswith("the teacher says 'spam' for each of 4 texts, so there is nothing to distil")


def test_a_teacher_that_is_right_no_more_often_than_one_label_is_named():
    gold = np.array([0, 0, 0, 1])
    first, second = teacher_warnings(says(0, 2, 2, 2), LABELS, gold)
    assert first.startswith("the teacher is right on 25.0 % of 4 texts, and 'ham' for each would be on 75.0 %")
    assert second.startswith("the teacher never says 'spam' (1 texts)")


def test_a_label_that_a_good_teacher_never_says_is_named():
    (warning,) = teacher_warnings(says(0, 0, 1, 1, 0), LABELS, np.array([0, 0, 1, 1, 2]))
    assert "never says 'other' (1 texts)" in warning


def test_labels_that_a_teacher_never_says_are_named_without_gold_too():
    (warning,) = teacher_warnings(says(0, 0, 0, 1), LABELS)
    assert warning == "the teacher says 'other' for none of 4 texts; no student can learn that from it"


def test_a_good_teacher_and_a_good_student_are_not_warned_of():
    teacher, gold = says(0, 1, 2, 0), np.array([0, 1, 2, 0])
    assert teacher_warnings(teacher, LABELS, gold) == teacher_warnings(teacher, LABELS) == []
    assert student_warnings({"small": says(0, 1, 2, 1)}, teacher, LABELS) == []


def test_a_student_that_agrees_no_more_often_than_one_label_is_named():
    teacher = says(0, 0, 0, 1)
    students = {"never": says(1, 1, 1, 0), "constant": says(0, 0, 0, 0), "good": teacher}
    never, constant = student_warnings(students, teacher, LABELS)
    assert never.startswith("never agrees with the teacher on 0.0 % of 4 texts, and 'ham' for each would on 75.0 %")
    assert constant.startswith("constant agrees with the teacher on 75.0 % of 4 texts")


def test_a_student_that_never_agrees_with_a_constant_teacher_is_named():
    (warning,) = student_warnings({"small": says(1, 1)}, says(0, 0), LABELS)
    assert warning.startswith("small agrees with the teacher on 0.0 % of 2 texts")


def test_without_texts_there_is_nothing_to_warn_of():
    assert teacher_warnings(says(), LABELS) == student_warnings({"small": says()}, says(), LABELS) == []


def test_under_a_constant_teacher_its_own_warning_is_enough():
    assert student_warnings({"small": says(0, 0)}, says(0, 0), LABELS) == []
