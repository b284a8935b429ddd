"""The report says what `gap.json` says, for people, with every number in its interval."""

from __future__ import annotations

import re
from typing import Any

import pytest

from distill.evaluation.report.formats import number, percent
from distill.evaluation.report.markdown import escape, render
from distill.evaluation.report.sections.data import data_lines, label_lines
from distill.evaluation.report.sections.students import summary
from distill.evaluation.report.write import sections, title, write_report
from tests.support.gap_report import gap_report


def markdown(gap: dict[str, Any]) -> str:
    return render(title(gap), sections(gap))


@pytest.fixture
def gap() -> dict[str, Any]:
    """A `gap.json` of two students."""
    return gap_report()


def test_shares_are_percentages_with_their_interval():
    assert percent({"value": 0.9512, "lower": 0.9, "upper": 1.0}) == "95.1 % [90.0, 100.0]"
    assert percent(None) == "–"
    assert number({"value": 0.12345, "lower": 0.1, "upper": 0.2}) == "0.123 [0.100, 0.200]"


def test_the_summary_has_a_column_for_the_teacher_and_for_each_student(gap):
    header, rows = summary(gap)
    assert header == ["", "teacher", "small", "large"]
    assert all(len(row) == 4 for row in rows)
    table = {row[0]: row[1:] for row in rows}
    assert table["accuracy"][0] == percent(gap["students"]["small"]["gap"]["teacher_accuracy"])
    assert table["agreement with teacher"][1] == percent(gap["students"]["small"]["gap"]["agreement"])
    assert table["ms per text"] == ["not known", "1.25", "4.00"]
    assert table["$ per 1,000 texts"] == ["0.500000", "0.000125", "0.000400"]
    assert table["graph"] == ["", "int8", "fp32"]
    assert table["MiB"] == ["", "3.0", "3.0"]


def test_without_gold_labels_nothing_speaks_of_them():
    gap = gap_report(gold=False)
    assert {row[0] for row in summary(gap)[1]}.isdisjoint({"accuracy", "macro-F1", "retention"})
    text = markdown(gap)
    assert "answers as the teacher does on" in text
    assert not re.search("accuracy|gold|McNemar", text.split("## Data")[0])


def test_the_account_of_the_data_loses_no_row(gap):
    account, delimiter, finding = data_lines(gap["data"])
    for part in ("800 rows to train", "90 to validate", "50 to test", "1000 rows in the pool", "60 exact and 30 near"):
        assert part in account
    assert "11 that are also in validation, 9 that are also in test" in account
    assert "4 texts had more than one gold label" in account
    assert delimiter == "- train.csv: read with the delimiter ';'"
    assert finding == "- warning: train: 800 rows"


def test_every_label_is_listed_with_its_rows(gap):
    assert label_lines(gap["data"]) == [
        "- no label: 5 rows (5 train, 0 validation, 0 test)",
        "- label a: 6 rows (3 train, 2 validation, 1 test)",
        "- label 'b\\xa0c': 0 rows (0 train, 0 validation, 0 test)",
    ]


def test_rows_of_the_teacher_are_not_counted_twice(gap):
    counts = {"train": 1, "validation": 0, "test": 0, "fit": 1, "calibration": 2}
    data = {**gap["data"], "counts": {"": dict.fromkeys(counts, 0), "a": counts}}
    expected = "- label a: 1 rows (1 train, 0 validation, 0 test); for the teacher: 1 fit, 2 calibration"
    assert label_lines(data) == [expected]


def test_of_very_many_labels_the_first_are_listed(gap):
    counts = {"train": 1, "validation": 0, "test": 0}
    data = {**gap["data"], "counts": {label: counts for label in ("", *map(str, range(5000)))}}
    lines = label_lines(data)
    assert len(lines) == 202
    assert lines[0].startswith("- no label: ")
    assert lines[-2].startswith("- label 199: ")
    assert lines[-1] == "- … and 4,800 more labels"


def test_the_text_names_teacher_choice_and_reasons(gap):
    text = markdown(gap)
    assert text.startswith("# Distillation gap: desk\n")
    assert "Teacher: local:big (version abc)" in text
    assert "Chosen student: small." in text
    assert "- large: fp32 was fastest" in text


def interval(value: float) -> dict[str, float]:
    return {"value": value, "lower": value - 0.05, "upper": value + 0.05}


def section(gap: dict[str, Any]) -> str:
    return markdown(gap).split("## The teacher\n")[1].split("## ")[0]


def test_warnings_come_before_every_number(gap):
    assert "Warning" not in markdown(gap)
    gap["warnings"] = ["the teacher says 'billing' for each of 50 texts"]
    text = markdown(gap)
    assert text.index("**Warning:** the teacher says 'billing' for each of 50 texts.") < text.index("per text")


def test_the_rows_that_the_teacher_did_not_label_are_counted(gap):
    text = section(gap).strip()
    assert text.startswith("It labelled 940 texts, refused 2, and answered 1 with no label;")
    assert "\n" not in text  # there is nothing else to say


@pytest.mark.parametrize(
    ("scaling", "how"),
    [
        ({"method": "temperature", "temperature": 1.84321}, "a temperature of 1.843 (asked for)"),
        ({"method": "vector", "scale": [1, 1, 1], "bias": [0, 0, 0]}, "a scale and a bias per label (asked for)"),
    ],
)
def test_calibration_is_shown_before_and_after(gap, scaling, how):
    gap["teacher"]["calibration"] = {
        "scaling": scaling,
        "reason": "asked for",
        "rows": 480,
        **{
            name: {"before": interval(before), "after": interval(after)}
            for name, before, after in (
                ("log_loss", 0.9, 0.6),
                ("calibration_error", 0.14, 0.06),
                ("accuracy", 0.8, 0.81),
            )
        },
    }
    text = section(gap)
    assert f"calibrated by {how}, estimated from 480 gold rows" in text
    assert "log-loss is 0.600 [0.550, 0.650] instead of 0.900" in text
    assert "calibration error 0.060 [0.010, 0.110] instead of 0.140" in text
    assert "accuracy 81.0 % [76.0, 86.0] instead of 80.0 %" in text


def test_self_agreement_is_shown_with_the_ceiling_that_follows(gap):
    gap["teacher"]["self_agreement"] = {
        "rows": 200,
        "agreement": interval(0.9),
        "variation": interval(0.07),
        "ceiling": interval(0.95),
        "by_construction": False,
    }
    text = section(gap)
    assert "The teacher agrees with itself on 90.0 % [85.0, 95.0] of 200 texts" in text
    assert "total variation between its answers is 0.070" in text
    assert "on more than 95.0 % [90.0, 100.0]" in text
    gap["teacher"]["self_agreement"]["by_construction"] = True
    assert "agrees with itself on every text, by construction" in section(gap)


def test_terms_are_shown(gap):
    gap["teacher"]["terms"] = [{"acknowledged": True, "reference": "https://example.org/terms"}]
    assert "Its terms were acknowledged: https://example.org/terms" in section(gap)
    gap["teacher"]["terms"][0]["permission"] = "our contract"
    assert "/terms; permission to train on its answers: our contract" in section(gap)


def test_the_labels_with_the_largest_certain_gap_come_first(gap):
    shown = [
        line.split("|")[1].strip()
        for line in markdown(gap).split("## Labels")[1].split("## ")[0].splitlines()
        if line.startswith("| ")
    ][2:]
    bounds = {row["label"]: 1 - row["recall"]["upper"] for row in gap["students"]["small"]["gap"]["classes"]}
    assert shown == sorted(bounds, key=lambda label: -bounds[label])


def test_tables_are_rectangular(gap):
    tables = [block for block in markdown(gap).split("\n\n") if block.startswith("|")]
    assert tables
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


@pytest.mark.parametrize("limit", [3.0, None])
def test_the_report_and_its_figures_are_written(gap, tmp_path, limit):
    gap["budget"]["latency_ms"] = limit
    write_report(gap, tmp_path)
    assert (tmp_path / "report.md").read_text() == markdown(gap)
    for name in ("reliability.png", "reliability-gold.png", "frontier.png", "confusion.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in markdown(gap)


def test_no_text_becomes_markup():
    assert escape("a|b *c* `d` <script>alert(1)</script> &amp; [x](y) \\") == (
        "a\\|b \\*c\\* \\`d\\` &lt;script>alert(1)&lt;/script> &amp;amp; [x\\](y) \\\\"
    )
    assert escape("_a_ data_privacy\n90.0 % [80.1, 95.0]") == "\\_a\\_ data_privacy 90.0 % [80.1, 95.0]"
