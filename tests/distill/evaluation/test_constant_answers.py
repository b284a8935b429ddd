"""Answers that are no better than one label for everything are said to be so, and others are not."""

from __future__ import annotations

import numpy as np
import pytest

from distill.evaluation.constant_answers import student_warnings, teacher_warnings

LABELS = ("ham", "spam", "other")


def says(*classes: int) -> np.ndarray:
    return np.eye(3)[list(classes)] * 0.8 + 0.1


@pytest.mark.parametrize(
    ("teacher", "gold", "warnings"),
    [
        ((1, 1, 1, 1), None, ["says 'spam' for each of 4 texts, so there is nothing to distil"]),
        (
            (0, 2, 2, 2),
            (0, 0, 0, 1),
            ["is right on 25.0 % of 4 texts, and 'ham' for each would be on 75.0 %", "never says 'spam' (1 texts)"],
        ),
        ((0, 0, 1, 1, 0), (0, 0, 1, 1, 2), ["never says 'other' (1 texts)"]),
        ((0, 0, 0, 1), None, ["says 'other' for none of 4 texts; no student can learn that from it"]),
        ((0, 1, 2, 0), (0, 1, 2, 0), []),
        ((0, 1, 2, 0), None, []),
        ((), None, []),
    ],
)
def test_a_teacher_that_is_no_better_than_one_label_is_named(teacher, gold, warnings):
    found = teacher_warnings(says(*teacher), LABELS, None if gold is None else np.array(gold))
    assert len(found) == len(warnings)
    assert all(one.startswith(f"the teacher {start}") for one, start in zip(found, warnings, strict=True))


@pytest.mark.parametrize(
    ("student", "teacher", "warnings"),
    [
        ((1, 1, 1, 0), (0, 0, 0, 1), ["on 0.0 % of 4 texts, and 'ham' for each would on 75.0 %"]),
        ((0, 0, 0, 0), (0, 0, 0, 1), ["on 75.0 % of 4 texts"]),
        ((0, 0, 0, 1), (0, 0, 0, 1), []),
        ((0, 1, 2, 1), (0, 1, 2, 0), []),
        ((1, 1), (0, 0), ["on 0.0 % of 2 texts"]),
        ((0, 0), (0, 0), []),  # the teacher's own warning is enough
        ((), (), []),
    ],
)
def test_a_student_that_agrees_no_more_often_than_one_label_is_named(student, teacher, warnings):
    found = student_warnings({"small": says(*student)}, says(*teacher), LABELS)
    assert len(found) == len(warnings)
    assert all(
        one.startswith(f"small agrees with the teacher {start}") for one, start in zip(found, warnings, strict=True)
    )
