"""Sections say what `gap.json` says, and are left out where it says nothing."""

import re

import pytest

from distill.evaluation.report.document import Bullets, Facts, Paragraph, Quotes, Table
from distill.evaluation.report.formats import count, dollars, percent
from distill.evaluation.report.sections import comparisons, confusion, costs, disagreements, graphs, overview
from distill.evaluation.report.sections.overview import verdict
from distill.evaluation.report.sections.students import summary
from distill.evaluation.report.write import sections
from tests.support.gap_report import LABELS, gap_report


@pytest.fixture
def gap():
    return gap_report()


def titles(gap):
    return [section.title for section in sections(gap)]


def table(section):
    (found,) = (block for block in section.blocks if isinstance(block, Table))
    return found


def test_what_has_no_data_is_left_out(gap):
    assert {"Costs", "Confusion", "Most surprising disagreements"} <= set(titles(gap))
    assert "What distillation is worth" not in titles(gap)
    own = gap["students"]["small"]
    for student in gap["students"].values():
        student["costs"]["teacher_usd_per_1000"] = None
    own["disagreements"] = []
    own["gap"]["confusion"] = [[0, 0, 30], [1, 1, 20]]
    assert {"Costs", "Confusion", "Most surprising disagreements"}.isdisjoint(titles(gap))


def test_the_verdict_is_a_sentence_of_the_chosen_student(gap):
    own = gap["students"]["small"]
    said = verdict(gap)
    assert f"keeps {100 * own['gap']['retention']['value']:.1f} % of the teacher's accuracy" in said
    assert f"{100 * own['gap']['agreement']['value']:.1f} % of 50 held-out texts" in said
    assert said.endswith(f", at 1/{0.5 / own['usd_per_1000']:,.0f} of the cost.")
    assert "fast" not in said  # the teacher's time is not known
    gap["teacher"] |= {"milliseconds": 500.0, "usd_per_1000": None}
    assert verdict(gap).endswith(f", {500 / 1.25:.0f} times as fast.")


def test_a_teachers_share_of_a_batch_is_not_compared_with_a_text_alone(gap):
    gap["teacher"] |= {"milliseconds": 0.46, "in_batches": True}
    assert "fast" not in verdict(gap)
    (facts,) = (block for block in overview.section(gap).blocks if isinstance(block, Facts))
    notes = {fact.name: fact.note for fact in facts.items}
    assert notes["per text, on one core"] == "teacher: 0.46 ms, in batches"
    assert ["ms per text", "0.46, in batches"] in [row[:2] for row in summary(gap)[1]]


def test_the_most_frequent_confusions_come_first(gap):
    own = gap["students"]["small"]["gap"]
    rows = table(confusion.section(gap)).rows
    counts = [int(row[2]) for row in rows]
    assert counts == sorted(counts, reverse=True)
    chosen = {row["label"]: row["teacher"] for row in own["classes"]}
    for teacher, student, texts, share in rows:
        place = [LABELS.index(teacher), LABELS.index(student)]
        assert [*place, int(texts)] in own["confusion"]
        assert share == f"{100 * int(texts) / chosen[teacher]:.1f} %"
    assert sum(counts) == own["rows"] - round(own["rows"] * own["agreement"]["value"])


def test_of_very_many_labels_the_matrix_has_those_that_are_confused():
    labels = tuple(f"label {at}" for at in range(150))
    gap = gap_report(labels, rows=300)
    drawn = [block for block in confusion.section(gap).blocks if isinstance(block, Paragraph)][-1]
    assert "for the 100 labels that are confused most" in drawn.text


def test_each_disagreement_has_both_sides(gap):
    (quotes,) = (block for block in disagreements.section(gap).blocks if isinstance(block, Quotes))
    found = gap["students"]["small"]["disagreements"]
    assert [text for text, _ in quotes.items] == [one["text"] for one in found]
    for (_, sides), one in zip(quotes.items, found, strict=True):
        assert re.fullmatch(
            rf"teacher: {one['teacher']} \(\d+ %\) · small: {one['student']} \(\d+ %; \d+ % for the teacher's\) · "
            rf"gold: {one['gold']}",
            sides,
        )


def test_the_break_even_volume_is_only_for_a_teacher_that_is_paid_by_the_text(gap):
    rows = {row[0]: row[1:] for row in table(costs.section(gap)).rows}
    assert rows["break-even volume"] == [f"{count(0.36 * 730 / 0.5 * 1000)} texts a month"] * 2
    assert rows["labels are paid back after"][0] == f"{count(20 / (0.5 - 0.000125) * 1000)} texts"
    for student in gap["students"].values():
        student["costs"]["break_even_texts_per_month"] = None
    section = costs.section(gap)
    assert "break-even volume" not in {row[0] for row in table(section).rows}
    assert not any("break-even" in block.text for block in section.blocks if isinstance(block, Paragraph))


def interval(value):
    return {"value": value, "lower": value - 0.01, "upper": value + 0.01}


@pytest.mark.parametrize("has_gold", [True, False])
def test_students_trained_in_other_ways_are_compared_with_the_distilled_one(gap, has_gold):
    gold = interval(0.8) if has_gold else None
    way = {"texts": 800, "agreement": interval(0.9), "accuracy": gold, "macro_f1": gold}
    lost = {"agreement_lost": interval(0.02), "accuracy_lost": interval(-0.03) if has_gold else None}
    none = {"agreement_lost": interval(0.0), "accuracy_lost": interval(0.0) if has_gold else None}
    gap["comparisons"] = {"small": {"hard": way | lost, "soft": way | none}}
    found = table(comparisons.section(gap))
    assert [row[0] for row in found.rows] == ["hard labels of the teacher", "soft labels"]
    hard, soft = found.rows
    assert hard[1:3] == [percent(interval(0.9)), "+2.0 [+1.0, +3.0]"]
    assert soft[2] == ""
    assert hard[3:] == (["80.0 % [79.0, 81.0]", "-3.0 [-4.0, -2.0]", "80.0 % [79.0, 81.0]"] if has_gold else [])
    assert {len(row) for row in found.rows} == {len(found.header)}


def test_only_students_that_were_trained_on_the_same_texts_are_said_to_be(gap):
    way = {name: interval(0.9) for name in ("agreement", "agreement_lost", "accuracy", "accuracy_lost", "macro_f1")}

    def shown(**texts):
        gap["comparisons"] = {"small": {name: {"texts": count, **way} for name, count in texts.items()}}
        section = comparisons.section(gap)
        assert section is not None
        (paragraph,) = (block for block in section.blocks if isinstance(block, Paragraph))
        return paragraph.text, table(section)

    text, found = shown(soft=2400, gold=2400, human=2400)
    assert "on the same 2,400 texts" in text
    assert "trained on" not in found.header
    text, found = shown(soft=2400, gold=600, human=600)
    assert "on the same test rows" in text
    assert text.count("same") == 2  # the same student, too
    place = found.header.index("trained on")
    assert [row[place] for row in found.rows] == ["600", "2,400", "2,400, then 600"]
    assert {len(row) for row in found.rows} == {len(found.header)}


def test_every_finding_about_the_data_is_listed(gap):
    (listed,) = (block for block in sections(gap)[-1].blocks if isinstance(block, Bullets))
    assert listed.items == ["train.csv: read with the delimiter ';'", "warning: train: 800 rows"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "$0.00"),
        (1234.5, "$1,234.50"),
        (0.05, "$0.05"),
        (0.5, "$0.50"),
        (0.0000186, "$0.0000186"),
        (0.125, "$0.125"),
    ],
)
def test_dollars_have_three_digits_or_cents(value, shown):
    assert dollars(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.4, "0"), (12_345, "12,300"), (1_964_000_000, "1.96 billion"), (4.2e12, "4.2 trillion")]
)
def test_counts_have_three_digits(value, shown):
    assert count(value) == shown


def test_a_preset_is_shown_with_the_values_that_it_leads_to(gap):
    assert "Preset" not in titles(gap)
    keys = [{"key": "labelling.views", "value": {"per_text": 3}, "preset": {"per_text": 1}}]
    (section,) = [one for one in sections({**gap, "preset": {"name": "local", "keys": keys}}) if one.title == "Preset"]
    (bullets,) = [block for block in section.blocks if isinstance(block, Bullets)]
    assert list(bullets.items) == ["labelling.views: {per_text: 3}, as the task says; the preset has {per_text: 1}"]


def test_the_teachers_agreement_with_itself_is_the_ceiling(gap):
    names = [row[0] for row in summary(gap)[1]]
    assert "ceiling of agreement" not in names
    again = {"rows": 200, "agreement": interval(0.9), "variation": interval(0.07), "ceiling": interval(0.95)}
    gap["teacher"]["self_agreement"] = again | {"by_construction": False}
    rows = {row[0]: row[1:] for row in summary(gap)[1]}
    assert rows["agreement with teacher"][0] == "with itself 90.0 % [89.0, 91.0]"
    assert rows["ceiling of agreement"] == ["95.0 % [94.0, 96.0]", "", ""]


def test_every_graph_that_was_tried_has_its_time_and_its_agreement(gap):
    assert "Graphs" not in titles(gap)  # exported before they were measured
    gap["students"]["small"]["measured"] |= {
        "rows": 1,
        "milliseconds_by_variant": {"plain": 4.0, "int8": 1.25, "int8-dynamic": 1.0},
        "variants": {
            "plain": {"time": 1.0, "agreement": 1.0, "teacher_agreement": 0.95, "bytes": 2**22, "refused": False},
            "int8": {"time": 0.31, "agreement": 0.995, "teacher_agreement": 0.949, "bytes": 2**20, "refused": False},
            "int8-dynamic": {"time": 0.25, "agreement": 0.9, "teacher_agreement": 0.9, "bytes": 2**20, "refused": True},
        },
    }
    assert "Graphs" in titles(gap)
    assert [list(row) for row in table(graphs.section(gap)).rows] == [
        ["small", "plain", "", "4.000", "100 %", "100.00 %", "95.00 %", "4.0"],
        ["small", "int8", "served", "1.250", "31 %", "99.50 %", "94.90 %", "1.0"],
        ["small", "int8-dynamic", "refused", "1.000", "25 %", "90.00 %", "90.00 %", "1.0"],
    ]
    assert not [block for block in graphs.section(gap).blocks if isinstance(block, Bullets)]  # no gate failed
    checks = (("int8-dynamic: agreement with fp32", 0.9, 0.99), ("int8-qdq: share of fp32's time", 0.981, 0.95))
    gap["students"]["small"]["gates"] |= {
        name: {"name": name, "measured": measured, "required": required, "passed": False}
        for name, measured, required in checks
    }
    (refusals,) = [block.items for block in graphs.section(gap).blocks if isinstance(block, Bullets)]
    assert list(refusals) == [
        "small, int8-dynamic: agreement with fp32 is 90.00 %, not at least 99 %",
        "small, int8-qdq: share of fp32's time is 98.10 %, not at most 95 %",
    ]


def test_the_graphs_of_a_pruned_student_are_explained_where_there_are_some(gap):
    measured = gap["students"]["small"]["measured"]
    row = {"time": 0.31, "agreement": 0.995, "teacher_agreement": 0.949, "bytes": 2**20, "refused": False}
    measured |= {"rows": 1, "milliseconds_by_variant": {"int8": 1.25}, "variants": {"int8": row}}
    assert "lacks some attention heads" not in str(graphs.section(gap))
    name = "int8-pruned-25-12.5"
    measured |= {"milliseconds_by_variant": {name: 1.25}, "variants": {name: row}}
    assert "lacks some attention heads" in str(graphs.section(gap))
