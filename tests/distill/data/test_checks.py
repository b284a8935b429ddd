"""The data check finds what is wrong and what is thin, and is silent about data that will do."""

from __future__ import annotations

import pytest

from distill.data.checks import (
    ENOUGH_PER_LABEL,
    ENOUGH_ROWS,
    ENOUGH_TO_JUDGE,
    calibration_coverage,
    examine,
    examine_labels,
    fit_coverage,
    label_counts,
)
from distill.data.splits import Examples, Test, Train, Validation

LABELS = ("a", "b")


def split(kind: type[Examples], count: int, gold=LABELS) -> Examples:
    names = tuple(f"{kind.__name__}-{row}" for row in range(count))
    return kind(names, names, tuple(gold[row % len(gold)] for row in range(count)))


def found(train=None, validation=None, test=None, labels=LABELS) -> list[tuple[str, str]]:
    splits = {
        "train": train or split(Train, ENOUGH_ROWS),
        "validation": validation or split(Validation, ENOUGH_TO_JUDGE),
        "test": test or split(Test, ENOUGH_TO_JUDGE),
    }
    return [(finding.level, finding.message) for finding in examine(splits, labels)]


def test_data_that_will_do_has_no_findings():
    assert found() == []
    assert found(train=split(Train, ENOUGH_ROWS, gold=(None,))) == []


def test_gold_labels_that_the_task_does_not_know_are_a_problem():
    ((level, message),) = found(test=split(Test, ENOUGH_TO_JUDGE, gold=("a", "z")))
    assert level == "problem"
    assert message == "test: gold labels ['z'] are not among the task's 2 labels"


def test_gold_labels_that_were_meant_for_one_of_the_task_say_for_which():
    ((_, message),) = found(test=split(Test, ENOUGH_TO_JUDGE, gold=("a", "B", "b\u200b")))
    assert message == (
        "test: gold labels ['B', 'b\\u200b'] are not among the task's 2 labels; "
        r"'B' looks like 'b', 'b\u200b' looks like 'b': spell them alike"
    )


def of_labels(*gold, listed=False) -> list[tuple[str, str]]:
    splits = {"train": split(Train, 2 * len(gold), gold), "test": split(Test, len(gold), gold)}
    labels = sorted({label for label in gold if label is not None})
    return [(finding.level, finding.message) for finding in examine_labels(splits, labels, listed=listed)]


def test_labels_that_look_alike_are_a_warning_with_their_rows():
    assert of_labels("refund", "other", "Refund", "refund") == [
        ("warning", "labels 'Refund' (3 rows), 'refund' (6 rows) differ only in spelling; spell them alike")
    ]
    assert of_labels("refund", "other") == []


@pytest.mark.parametrize(("one", "other"), [("1", "1.0"), ("True", "true")])
def test_one_value_in_two_spellings_is_a_problem_unless_the_task_lists_both(one, other):
    ((level, message),) = of_labels(one, other, "2")
    assert level == "problem"
    assert message.startswith(f"labels '{one}' (3 rows), '{other}' (3 rows) are one value in several spellings")
    assert [level for level, _ in of_labels(one, other, "2", listed=True)] == ["warning"]


@pytest.mark.parametrize("label", ["nan", "NaN", "null", "<NA>", "#N/A"])
def test_a_label_that_programs_write_where_there_is_none_is_a_problem_unless_it_is_listed(label):
    ((level, message),) = of_labels("a", label)
    assert level == "problem"
    assert message == (
        f"label '{label}' (3 rows) reads like a missing one; empty such cells, or list it in the task's `labels`"
    )
    assert of_labels("a", label, listed=True) == []
    assert of_labels("a", "none") == []


def test_texts_that_programs_write_where_there_are_none_are_a_warning():
    pool = split(Train, ENOUGH_ROWS)
    texts = ("nan", " NULL ", *pool.texts[2:])
    assert found(train=Train(pool.ids, texts, pool.gold)) == [
        ("warning", "train: 2 texts read like missing ones, such as `nan`; remove such rows")
    ]


def test_every_label_is_counted_and_rows_without_one():
    splits = {"train": split(Train, 6, ("a", "a", None)), "test": split(Test, 2, ("a", "b"))}
    assert label_counts(splits, ("a", "b", "c")) == {
        "": {"train": 2, "test": 0},
        "a": {"train": 4, "test": 1},
        "b": {"train": 0, "test": 1},
        "c": {"train": 0, "test": 0},
    }


def test_a_test_split_with_some_gold_labels_says_what_that_costs():
    ((level, message),) = found(test=split(Test, 400, gold=("a", "b", None, "a")))
    assert level == "warning"
    assert message.startswith("test: 100 of 400 rows have no gold label, such as Test-2; the report will have no acc")
    assert found(test=split(Test, ENOUGH_TO_JUDGE, gold=(None,))) == []


def test_a_small_pool_is_a_warning():
    ((level, message),) = found(train=split(Train, ENOUGH_ROWS - 1))
    assert level == "warning"
    assert message.startswith(f"train: {ENOUGH_ROWS - 1} rows; distillation profits from {ENOUGH_ROWS:,}")


def test_small_held_out_splits_are_a_warning_each():
    findings = found(validation=split(Validation, ENOUGH_TO_JUDGE - 1), test=split(Test, 5))
    assert [(level, message.split(":")[0]) for level, message in findings] == [
        ("warning", "validation"),
        ("warning", "test"),
    ]


def test_labels_with_few_rows_are_named_with_their_number():
    thin = split(Train, ENOUGH_ROWS, gold=("a",) * 999 + ("b",))  # b: 10 of 10,000
    ((level, message),) = found(train=thin, labels=("a", "b", "c"))
    assert level == "warning"
    assert message == f"train: 2 labels have fewer than {ENOUGH_PER_LABEL} rows: c (0), b (10)"


def test_labels_with_few_rows_are_named_in_one_line_whatever_they_hold():
    thin = split(Train, ENOUGH_ROWS, gold=("a",) * 999 + ("b\n\x1b[31m\u202e",))
    validation, test = (split(kind, ENOUGH_TO_JUDGE, gold=("a",)) for kind in (Validation, Test))
    ((_, message),) = found(thin, validation, test, labels=("a", "b\n\x1b[31m\u202e"))
    assert message.endswith(r"rows: 'b\n\x1b[31m\u202e' (10)")


def test_gold_rows_of_one_label_cannot_fit_a_teacher():
    (finding,) = fit_coverage(split(Examples, 100, gold=("a",)), ("a", "b", "c", "d"))
    assert finding.level == "problem"
    assert finding.message == "teacher.fit.data: all rows have the label 'a'; add rows of the other 3 labels"


def test_labels_that_the_gold_rows_of_a_fit_lack_are_named():
    (finding,) = fit_coverage(split(Examples, 100, gold=("a", "c", "d")), ("a", "b", "c", "d"))
    assert finding.level == "warning"
    assert "no row has the label 'b' (1 of 4 labels)" in finding.message


def test_labels_that_the_gold_rows_of_a_fit_hardly_have_are_named():
    (finding,) = fit_coverage(split(Examples, 100, gold=("a",) * 49 + ("b",)), ("a", "b"))
    assert (finding.level, finding.message) == (
        "warning",
        f"teacher.fit.data: 1 label has fewer than {ENOUGH_PER_LABEL} rows: b (2)",
    )


def test_a_fit_on_enough_rows_of_every_label_has_no_findings():
    assert fit_coverage(split(Examples, 100), LABELS) == []


def test_labels_that_calibration_does_not_see_are_named():
    (finding,) = calibration_coverage(split(Examples, 100, gold=("b",)), ("a", "b"))
    assert (finding.level, finding.message.split("; ")[0]) == (
        "warning",
        "labelling.calibration.data: no row has the label 'a' (1 of 2 labels)",
    )
    assert calibration_coverage(split(Examples, 100), LABELS) == []
