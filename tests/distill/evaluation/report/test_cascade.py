"""The section on the cascade says what its stages answer, what that saves and loses, or why there is none."""

import pytest

from distill.evaluation.report.document import Bullets, Paragraph, Table
from distill.evaluation.report.sections.cascade import section
from distill.evaluation.report.sections.students import pareto_front


def interval(value):
    return {"value": value, "lower": value - 0.01, "upper": value + 0.01}


def student(agreement, milliseconds, **facts):
    gap = {"agreement": interval(agreement), "retention": interval(0.99), "student_accuracy": interval(0.92)}
    return {"gap": gap, "measured": {"milliseconds": milliseconds}, "shares": None, **facts}


@pytest.fixture
def gap():
    """A report of two students and the cascade of both."""
    cascade = student(0.949, 0.3, shares={"0-static": 0.7, "1-encoder": 0.3})
    cascade["measured"] |= {
        "milliseconds_by_variant": {"0-static": 0.1, "1-encoder": 1.0},
        "guarantee": "With 95 % confidence, it agrees.",
    }
    return {
        "students": {"static": student(0.93, 0.1), "encoder": student(0.95, 0.9), "static+encoder": cascade},
        "cascade": {"name": "static+encoder", "reason": "it saves much"},
    }


def test_each_stage_has_the_texts_that_it_reads_and_answers_on_the_test_split(gap):
    _, stages, *_ = section(gap).blocks
    assert isinstance(stages, Table)
    assert list(stages.rows) == [["0-static", "100.0 %", "70.0 %", "0.100"], ["1-encoder", "30.0 %", "30.0 %", "1.000"]]


def test_the_whole_is_compared_with_its_last_stage_and_the_guarantee_is_told(gap):
    *_, comparison, guarantee = section(gap).blocks
    assert isinstance(comparison, Table)
    table = {row[0]: list(row[1:]) for row in comparison.rows}
    assert list(comparison.header) == ["", "static+encoder", "last stage alone"]
    assert table["agreement with teacher"] == ["94.9 % [93.9, 95.9]", "95.0 % [94.0, 96.0]"]
    assert table["computing time per text, ms"] == ["0.400", "1.000"]  # 0.7 · 0.1 + 0.3 · (0.1 + 1.0)
    assert table["share of that time"] == ["40.0 %", "100.0 %"]
    assert guarantee == Bullets(["With 95 % confidence, it agrees."])


def test_the_teacher_is_the_last_row_where_it_answers_what_is_left(gap):
    own = gap["students"].pop("static+encoder")
    own["shares"] = {"0-static": 0.7, "1-encoder": 0.2, "teacher": 0.1}
    gap["students"]["static+encoder+teacher"] = own
    gap["cascade"]["name"] = "static+encoder+teacher"
    _, stages, told, comparison, promises = section(gap).blocks
    assert isinstance(stages, Table)
    assert isinstance(comparison, Table)
    assert isinstance(promises, Bullets)
    assert list(stages.rows)[1:] == [
        ["1-encoder", "30.0 %", "20.0 %", "1.000"],
        ["teacher", "10.0 %", "10.0 %", "–"],
    ]
    assert told == Paragraph("The whole against its last student alone:")
    table = {row[0]: list(row[1:]) for row in comparison.rows}
    assert table["computing time per text, ms"] == ["0.400", "1.000"]  # both students read what the teacher answers
    assert promises.items[0] == "With 95 % confidence, it agrees."
    assert "while the teacher answers" in promises.items[1]


def test_without_gold_labels_there_is_agreement_alone(gap):
    for own in gap["students"].values():
        own["gap"] |= {"retention": None, "student_accuracy": None}
    *_, comparison, _ = section(gap).blocks
    assert isinstance(comparison, Table)
    assert "accuracy" not in {row[0] for row in comparison.rows}


def test_a_reader_is_told_why_there_is_none(gap):
    gap["cascade"] = {"name": None, "reason": "400 validation rows are too few"}
    assert section(gap).blocks == [Paragraph("No cascade was built: 400 validation rows are too few.")]
    gap["cascade"] = None
    assert section(gap) is None


def test_the_pareto_front_is_of_those_that_no_faster_one_equals(gap):
    assert pareto_front(gap) == [(0.1, pytest.approx(93.0)), (0.3, pytest.approx(94.9)), (0.9, pytest.approx(95.0))]
    gap["students"]["slow"] = student(0.94, 2.0)
    gap["students"]["static+encoder"]["gap"]["agreement"] = interval(0.92)
    assert pareto_front(gap) == [(0.1, pytest.approx(93.0)), (0.9, pytest.approx(95.0))]
