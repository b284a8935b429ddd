"""Costs equal a recount; what is never reached is None."""

from typing import Any

import pytest

from distill.evaluation.costs import costs

ASKED: dict[str, Any] = {
    "milliseconds": 2.0,
    "usd_per_hour": 0.05,
    "teacher_usd_per_1000": 0.5,
    "labels_usd": 5.0,
    "by_the_text": True,
}


def test_costs_by_hand():
    found = costs(**ASKED)
    assert found.student_usd_per_1000 == pytest.approx(2.0 * 0.05 / 3600)  # 1,000 texts take two seconds
    assert found.payback_texts == pytest.approx(5.0 / (0.5 - 2.0 * 0.05 / 3600) * 1000)
    assert found.core_usd_per_month == pytest.approx(36.5)
    assert found.most_texts_per_month == pytest.approx(730 * 3600 * 500)
    assert found.break_even_texts_per_month == pytest.approx(36.5 / 0.0005)
    assert found.break_even_texts_per_month < found.most_texts_per_month


def test_a_teacher_on_a_machine_of_its_own_has_no_break_even_volume():
    found = costs(**{**ASKED, "by_the_text": False})
    assert found.break_even_texts_per_month is None
    assert found.payback_texts is not None


@pytest.mark.parametrize("price", [None, 0.0, 0.00001])
def test_against_a_teacher_that_is_no_dearer_nothing_is_saved(price):
    found = costs(**{**ASKED, "teacher_usd_per_1000": price})
    assert found.payback_texts is found.break_even_texts_per_month is None
