"""The gap is what it is by hand, zero between equals, and refuses arrays that do not fit."""

import json

import numpy as np
import pytest

from distill.evaluation.gap import compare, divergence, jensen_shannon
from distill.evaluation.intervals import wilson

TEACHER = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
STUDENT = np.array([[0.7, 0.3], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]])  # follows but in row 1
GOLD = np.array([0, 0, 1, 0])  # the teacher is wrong in row 3, the student in rows 1 and 3
LABELS = ("a", "b")


def test_agreement_and_accuracies_by_hand():
    gap = compare(TEACHER, STUDENT, LABELS, GOLD)
    assert gap.rows == 4
    assert gap.agreement == wilson(3, 4)
    assert gap.teacher_accuracy == wilson(3, 4)
    assert gap.student_accuracy == wilson(2, 4)
    assert gap.retention is not None
    assert gap.retention.value == pytest.approx(2 / 3)
    assert gap.loss is not None
    assert gap.loss.value == pytest.approx(1 / 4)


def test_divergence_by_hand():
    rows = (TEACHER * np.log(TEACHER / STUDENT)).sum(1)
    np.testing.assert_allclose(divergence(TEACHER, STUDENT), rows)
    gap = compare(TEACHER, STUDENT, LABELS)
    assert gap.kl.value == pytest.approx(rows.mean())
    assert gap.kl.lower <= gap.kl.value <= gap.kl.upper


def test_jensen_shannon_by_hand():
    middle = (TEACHER + STUDENT) / 2
    rows = ((TEACHER * np.log(TEACHER / middle)).sum(1) + (STUDENT * np.log(STUDENT / middle)).sum(1)) / 2
    np.testing.assert_allclose(jensen_shannon(TEACHER, STUDENT), rows)
    assert compare(TEACHER, STUDENT, LABELS).js.value == pytest.approx(rows.mean())
    (most,) = jensen_shannon(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    assert most == pytest.approx(np.log(2), rel=0.01)


def test_confusion_counts_every_row():
    assert compare(TEACHER, STUDENT, LABELS).confusion == ((0, 0, 1), (0, 1, 1), (1, 1, 2))


def test_each_label_by_hand():
    first, second = compare(TEACHER, STUDENT, LABELS).classes
    assert (first.label, first.teacher, first.student) == ("a", 2, 1)
    assert (first.recall, first.precision) == (wilson(1, 2), wilson(1, 1))
    assert (second.label, second.teacher, second.student) == ("b", 2, 3)
    assert (second.recall, second.precision) == (wilson(2, 2), wilson(2, 3))


def test_a_label_that_nobody_chose_has_no_shares():
    nobody = compare(np.column_stack([TEACHER, np.zeros(4)]), np.column_stack([STUDENT, np.zeros(4)]), (*LABELS, "c"))
    assert nobody.classes[2].recall is None
    assert nobody.classes[2].precision is None


def test_without_gold_there_are_no_accuracies():
    gap = compare(TEACHER, STUDENT, LABELS)
    assert (gap.teacher_accuracy, gap.student_accuracy, gap.retention, gap.loss) == (None,) * 4
    assert (gap.teacher_macro_f1, gap.student_macro_f1, gap.mcnemar) == (None,) * 3


def test_equal_classifiers_have_no_gap():
    rows = np.random.default_rng(0).dirichlet(np.ones(4), size=300)
    gap = compare(rows, rows.copy(), ("a", "b", "c", "d"), rows.argmax(1))
    assert gap.agreement.value == 1
    assert gap.agreement.lower > 0.98
    for zero in (gap.kl, gap.loss):
        assert zero is not None
        assert (zero.value, zero.lower, zero.upper) == (0, 0, 0)
    assert gap.retention is not None
    assert (gap.retention.value, gap.retention.lower, gap.retention.upper) == (1, 1, 1)


def test_certainty_in_the_wrong_place_is_finite():
    (value,) = divergence(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    assert value == pytest.approx(np.log(1e4), rel=0.01)


def test_a_gap_is_json():
    gap = json.loads(
        json.dumps(compare(TEACHER.astype(np.float32), STUDENT.astype(np.float32), LABELS, GOLD).as_dict())
    )
    assert gap["agreement"]["value"] == 0.75
    assert gap["classes"][0]["recall"]["value"] == 0.5


def test_the_seed_decides_every_bootstrap():
    generator = np.random.default_rng(1)
    teacher, student = generator.dirichlet(np.ones(3), size=(2, 60))
    gold = generator.integers(0, 3, size=60)
    one, same, other = (compare(teacher, student, ("a", "b", "c"), gold, seed=seed) for seed in (1, 1, 2))
    assert one == same
    for name in ("kl", "js", "retention", "loss", "student_macro_f1"):
        assert getattr(one, name) != getattr(other, name)


@pytest.mark.parametrize(
    ("teacher", "student", "labels", "gold"),
    [
        (TEACHER, STUDENT[:3], LABELS, None),
        (TEACHER, np.column_stack([STUDENT, STUDENT]), LABELS, None),
        (TEACHER[0], STUDENT[0], LABELS, None),
        (TEACHER[:0], STUDENT[:0], LABELS, None),
        (TEACHER, STUDENT, ("a", "b", "c"), None),
        (TEACHER, STUDENT, LABELS, GOLD[:3]),
        (TEACHER, STUDENT, LABELS, GOLD[:1]),
        (TEACHER, STUDENT, LABELS, GOLD[:, None]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(teacher, student, labels, gold):
    with pytest.raises(ValueError, match="expected"):
        compare(teacher, student, labels, gold)
