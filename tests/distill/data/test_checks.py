"""The data check finds what is wrong and what is thin, and is silent about data that will do."""

from __future__ import annotations

import pytest

from distill.data.checks import (
    ENOUGH_PER_LABEL,
    ENOUGH_ROWS,
    ENOUGH_TO_JUDGE,
    Finding,
    calibration_coverage,
    examine,
    examine_labels,
    fit_coverage,
    label_counts,
    shared_with_test,
)
from distill.data.splits import Examples, Test, Train, Validation

LABELS = ("a", "b")


def split(kind: type[Examples], count: int, gold=LABELS) -> Examples:
    names = tuple(f"{kind.__name__}-{row}" for row in range(count))
    return kind(names, names, tuple(gold[row % len(gold)] for row in range(count)))


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.message) for finding in findings]


def found(train=None, validation=None, test=None, labels=LABELS) -> list[tuple[str, str]]:
    splits = {
        "train": train or split(Train, ENOUGH_ROWS),
        "validation": validation or split(Validation, ENOUGH_TO_JUDGE),
        "test": test or split(Test, ENOUGH_TO_JUDGE),
    }
    return told(examine(splits, labels))


def of_labels(*gold, listed=False) -> list[tuple[str, str]]:
    splits = {"train": split(Train, 2 * len(gold), gold), "test": split(Test, len(gold), gold)}
    labels = sorted({label for label in gold if label is not None})
    return told(examine_labels(splits, labels, listed=listed))


def of_fit(*gold: str, labels=LABELS) -> list[tuple[str, str]]:
    return told(fit_coverage(split(Examples, 100, gold), labels))


def of_calibration(*gold: str) -> list[tuple[str, str]]:
    return told(calibration_coverage(split(Examples, 100, gold), LABELS))


def shared(*texts: str, test: tuple[str, ...]) -> list[tuple[str, str]]:
    one, other = (Examples(tuple(map(str, range(len(each)))), each, (None,) * len(each)) for each in (texts, test))
    return told(shared_with_test("teacher.fit.data", one, other))


POOL = split(Train, ENOUGH_ROWS)
BARE = split(Train, ENOUGH_ROWS, gold=(None,))
NO_NAMES = Train(POOL.ids, ("nan", " NULL ", *POOL.texts[2:]), POOL.gold)
THIN = split(Train, ENOUGH_ROWS, gold=("a",) * 999 + ("b",))  # b: 10 of 10,000
ODD = "b\n\x1b[31m\u202e"
ONE_LABEL = {kind.__name__.lower(): split(kind, ENOUGH_TO_JUDGE, gold=("a",)) for kind in (Validation, Test)}

FINDINGS = {
    "gold labels that the task does not know": (
        found(test=split(Test, ENOUGH_TO_JUDGE, gold=("a", "z"))),
        ("problem", "test: gold labels ['z'] are not among the task's 2 labels"),
    ),
    "gold labels that were meant for one of the task": (
        found(test=split(Test, ENOUGH_TO_JUDGE, gold=("a", "B", "b\u200b"))),
        (
            "problem",
            "test: gold labels ['B', 'b\\u200b'] are not among the task's 2 labels; "
            r"'B' looks like 'b', 'b\u200b' looks like 'b': spell them alike",
        ),
    ),
    "labels that look alike": (
        of_labels("refund", "other", "Refund", "refund"),
        ("warning", "labels 'Refund' (3 rows), 'refund' (6 rows) differ only in spelling; spell them alike"),
    ),
    "texts that programs write where there are none": (
        found(train=NO_NAMES),
        ("warning", "train: 2 texts read like missing ones, such as `nan`; remove such rows"),
    ),
    "a test split with some gold labels": (
        found(test=split(Test, 400, gold=("a", "b", None, "a"))),
        ("warning", "test: 100 of 400 rows have no gold label, such as Test-2; the report will have no acc…"),
    ),
    "a small pool": (
        found(train=split(Train, ENOUGH_ROWS - 1)),
        (
            "warning",
            f"train: {ENOUGH_ROWS - 1} rows; distillation profits from {ENOUGH_ROWS:,} to 50,000; add texts to "
            "`data.unlabelled`, which need no gold label",
        ),
    ),
    "a small held-out split": (
        found(validation=split(Validation, ENOUGH_TO_JUDGE - 1)),
        ("warning", f"validation: {ENOUGH_TO_JUDGE - 1} rows give wide intervals…"),
    ),
    "labels with few rows": (
        found(train=THIN, labels=("a", "b", "c")),
        ("warning", f"train: 2 labels have fewer than {ENOUGH_PER_LABEL} rows: c (0), b (10)"),
    ),
    "labels with few rows, in one line whatever they hold": (
        found(split(Train, ENOUGH_ROWS, gold=("a",) * 999 + (ODD,)), **ONE_LABEL, labels=("a", ODD)),
        ("warning", rf"train: 1 label has fewer than {ENOUGH_PER_LABEL} rows: 'b\n\x1b[31m\u202e' (10)"),
    ),
    "one label in the gold rows of a fit": (
        of_fit("a", labels=("a", "b", "c", "d")),
        ("problem", "teacher.fit.data: all rows have the label 'a'; add rows of the other 3 labels"),
    ),
    "labels that the gold rows of a fit lack": (
        of_fit("a", "c", "d", labels=("a", "b", "c", "d")),
        ("warning", "teacher.fit.data: no row has the label 'b' (1 of 4 labels); …"),
    ),
    "labels that the gold rows of a fit hardly have": (
        of_fit(*["a"] * 49, "b"),
        ("warning", f"teacher.fit.data: 1 label has fewer than {ENOUGH_PER_LABEL} rows: b (2)"),
    ),
    "labels that calibration does not see": (
        of_calibration("b"),
        ("warning", "labelling.calibration.data: no row has the label 'a' (1 of 2 labels); …"),
    ),
    "texts that also judge, regardless of case and spacing": (
        shared("Where is  it", "mine", "other", test=("where is it", "mine")),
        ("warning", "teacher.fit.data: 2 of 3 texts are also in test…"),
    ),
}


@pytest.mark.parametrize(("findings", "expected"), FINDINGS.values(), ids=FINDINGS)
def test_a_finding_says_how_bad_it_is_what_it_is_and_where(findings, expected):
    ((level, message),) = findings
    assert level == expected[0]
    assert message.startswith(expected[1][:-1]) if expected[1].endswith("…") else message == expected[1]


NONE = {
    "data that will do": found(),
    "a pool without gold labels": found(train=BARE),
    "a test split without gold labels": found(test=split(Test, ENOUGH_TO_JUDGE, gold=(None,))),
    "labels that differ": of_labels("refund", "other"),
    "a label that is called none": of_labels("a", "none"),
    "a fit on enough rows of every label": of_fit("a", "b"),
    "a calibration on every label": of_calibration("a", "b"),
    "splits that share nothing": shared("a", test=("b",)),
}


@pytest.mark.parametrize("findings", NONE.values(), ids=NONE)
def test_there_is_no_finding_for(findings):
    assert findings == []


@pytest.mark.parametrize(("one", "other"), [("1", "1.0"), ("True", "true")])
def test_one_value_in_two_spellings_is_a_problem_unless_the_task_lists_both(one, other):
    ((level, message),) = of_labels(one, other, "2")
    assert level == "problem"
    assert message.startswith(f"labels '{one}' (3 rows), '{other}' (3 rows) are one value in several spellings")
    assert [level for level, _ in of_labels(one, other, "2", listed=True)] == ["warning"]


@pytest.mark.parametrize("label", ["nan", "NaN", "null", "<NA>", "#N/A"])
def test_a_label_that_programs_write_where_there_is_none_is_a_problem_unless_it_is_listed(label):
    message = f"label '{label}' (3 rows) reads like a missing one; empty such cells, or list it in the task's `labels`"
    assert of_labels("a", label) == [("problem", message)]
    assert of_labels("a", label, listed=True) == []


def test_small_held_out_splits_are_a_warning_each():
    findings = found(validation=split(Validation, ENOUGH_TO_JUDGE - 1), test=split(Test, 5))
    assert [message.split(":")[0] for _, message in findings] == ["validation", "test"]


def test_every_label_is_counted_and_rows_without_one():
    splits = {"train": split(Train, 6, ("a", "a", None)), "test": split(Test, 2, ("a", "b"))}
    assert label_counts(splits, ("a", "b", "c")) == {
        "": {"train": 2, "test": 0},
        "a": {"train": 4, "test": 1},
        "b": {"train": 0, "test": 1},
        "c": {"train": 0, "test": 0},
    }
