from __future__ import annotations

from distill.data.checks import shared_with_test
from distill.data.splits import Examples


def examples(*texts: str) -> Examples:
    return Examples(tuple(map(str, range(len(texts)))), texts, (None,) * len(texts))


def test_texts_that_also_judge_are_counted_regardless_of_case_and_spacing() -> None:
    (finding,) = shared_with_test(
        "teacher.fit.data", examples("Where is  it", "mine", "other"), examples("where is it", "mine")
    )
    assert finding.level == "warning"
    assert "teacher.fit.data: 2 of 3 texts also stand in test" in finding.message


def test_splits_that_share_nothing_are_no_finding() -> None:
    assert shared_with_test("validation", examples("a"), examples("b")) == []
