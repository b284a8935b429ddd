"""The disagreements that surprise most come first, and each says what a recount says."""

import numpy as np

from distill.evaluation.disagreements import LONGEST, most_surprising, shortened

LABELS = ("a", "b", "c")
TEACHER = np.array([[0.9, 0.1, 0.0], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8], [0.98, 0.01, 0.01]])
STUDENT = np.array([[0.3, 0.6, 0.1], [0.4, 0.5, 0.1], [0.1, 0.0, 0.9], [0.1, 0.2, 0.7]])  # follows in row 2
TEXTS = ["first", "second", "third", "a long\n story"]
GOLD = ["a", None, "c", "b"]


def test_the_teacher_is_sure_where_the_student_sees_nothing():
    first, second, third = most_surprising(TEACHER, STUDENT, LABELS, TEXTS, GOLD)
    assert (first.text, first.teacher, first.student, first.gold) == ("a long story", "a", "c", "b")
    assert (first.teacher_confidence, first.student_confidence, first.student_of_teachers) == (0.98, 0.7, 0.1)
    assert [second.text, third.text] == ["first", "second"]
    assert third.gold is None
    assert most_surprising(TEACHER, STUDENT, LABELS, TEXTS, GOLD, most=1) == [first]


def test_who_agrees_surprises_nobody():
    assert most_surprising(TEACHER, TEACHER, LABELS, TEXTS, GOLD) == []


def test_long_texts_are_shortened():
    assert shortened("word " * 100) == ("word " * 100)[: LONGEST - 1].rstrip() + "…"
    assert shortened("  short\ttext ") == "short text"
