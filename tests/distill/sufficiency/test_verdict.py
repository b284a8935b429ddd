"""The verdict follows from the learning curve, from the rule where there is none, and from thin labels."""

from __future__ import annotations

import pytest

from distill.evaluation.intervals import Interval
from distill.sufficiency.verdict import judge, points, price

WELL = {"billing": 500, "refund": 700}
FLAT, SOME, STEEP = (Interval(value, value - 0.003, value + 0.003) for value in (0.004, 0.02, 0.05))


@pytest.mark.parametrize(
    ("rows", "gain", "verdict"),
    [
        (800, FLAT, "enough"),
        (800, SOME, "more would help"),
        (800, STEEP, "too little"),
        (60_000, STEEP, "too little"),
        (20_000, Interval(0.004, 0.0, 0.02), "more would help"),  # it may still bring 2 points
        (800, None, "too little"),
        (5000, None, "more would help"),
        (20_000, None, "enough"),
    ],
)
def test_the_curve_decides_and_the_rule_where_there_is_none(rows, gain, verdict):
    judgement = judge(rows, WELL, gain, 0.5)
    assert judgement.verdict == verdict
    assert bool(judgement.remedies) == (verdict != "enough")
    assert ("10,000 to 50,000" in judgement.reason) == (gain is None)


def test_the_remedy_says_how_many_texts_at_what_price_bring_how_much():
    (remedy,) = judge(9468, WELL, SOME, 0.5).remedies
    assert remedy.action == "add about 9,500 texts of the same source to `data.unlabelled`; they need no gold label"
    assert (remedy.texts, remedy.usd, remedy.gain) == (9468, pytest.approx(4.734), SOME)
    assert price(remedy, "not known") == "; the teacher's labels cost $4.73"
    (unpriced,) = judge(9468, WELL, SOME, None).remedies
    assert price(unpriced, "not known") == "; not known"


def test_without_a_curve_the_remedy_is_to_reach_the_rule():
    (remedy,) = judge(4000, WELL, None, 1.0).remedies
    assert (remedy.texts, remedy.usd, remedy.gain) == (6000, 6.0, None)


def test_thin_labels_keep_data_from_being_enough_and_are_named_rarest_first():
    judgement = judge(800, {"billing": 700, "refund": 19, "other": 3, "none": 0}, FLAT, 2.0)
    assert judgement.verdict == "more would help"
    assert judgement.reason.endswith(", but 3 labels have fewer than 20 rows")
    (remedy,) = judgement.remedies
    assert remedy.action == "find 38 texts of the labels with fewer than 20 rows: none (0), other (3), refund (19)"
    assert remedy.usd == pytest.approx(0.076)
    many = {f"label-{number}": 1 for number in range(9)}
    assert judge(800, many, FLAT, 2.0).remedies[0].action.endswith("label-4 (1), …")


def test_a_gain_is_shown_as_it_is_fitted_with_its_interval():
    assert points(Interval(0.005, 0.003, 0.009)) == "+0.5 points [+0.3, +0.9]"
    assert points(Interval(0.0, 0.0, 0.001)) == "+0.0 points [+0.0, +0.1]"


def test_labels_that_look_wrong_are_worth_a_look_from_three_in_a_hundred():
    assert judge(20_000, WELL, FLAT, 1.0, 600, 20_000).remedies == ()
    (remedy,) = judge(20_000, WELL, FLAT, 1.0, 601, 20_000).remedies
    assert "601 labels that look wrong" in remedy.action
    assert price(remedy, "not known") == ""  # a person does that
