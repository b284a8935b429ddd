"""The rows of the log against what `GET /gap` says."""

from __future__ import annotations

import copy
import sqlite3
from typing import Any

import pytest

from tests.rehearsals.hosts.recount import ROWS, differences, gap_of, recount, unaccounted, whole

NAMES = ("bundle", "band", "outcome", "rows", "disagreed")
LOG = [
    dict(zip(NAMES, row, strict=True))
    for row in (
        ("v1", "0", "completed", "10", "1"),
        ("v1", "0", "", "2", "0"),
        ("v1", "1", "completed", "5", "3"),
        ("v1", "1", "timeout", "4", "0"),
        ("v2", "0", "completed", "7", "7"),
    )
]
GAP: dict[str, Any] = {
    "counts": {"requests": 100, "sampled": 22, "compared": 15, "disagreements": 4},
    "outcomes": {"completed": 15, "timeout": 4, "queue_full": 1, "budget": 0},
    "queue": {"waiting": 1, "in_flight": 1},
    "bands": [
        {"requests": 80, "compared": 10, "disagreements": 1},
        {"requests": 20, "compared": 5, "disagreements": 3},
    ],
}


def test_rows_are_counted_by_version_and_band():
    bands = recount(LOG)["v1"]
    total = whole(bands)
    assert (bands[1].sampled, bands[1].compared, bands[1].disagreements) == (9, 5, 3)
    assert (total.sampled, total.compared, total.disagreements, total.waiting) == (21, 15, 4, 2)
    assert total.outcomes == {"completed": 15, "timeout": 4}


def test_what_gap_says_and_the_log_has_are_the_same():
    assert differences(GAP, recount(LOG)["v1"]) == []
    assert unaccounted(GAP) == 0


@pytest.mark.parametrize(
    ("place", "name"),
    [
        *(("counts", name) for name in ("sampled", "compared", "disagreements")),
        *(("outcomes", name) for name in ("completed", "timeout", "budget")),
        ("queue", "waiting"),
        ("queue", "in_flight"),
    ],
)
def test_each_count_that_is_off_by_one_is_named(place, name):
    gap = copy.deepcopy(GAP)
    gap[place][name] += 1
    assert len(differences(gap, recount(LOG)["v1"])) == 1


@pytest.mark.parametrize("name", ["compared", "disagreements"])
def test_a_comparison_in_another_band_is_named(name):
    gap = copy.deepcopy(GAP)
    gap["bands"][0][name] += 1
    gap["bands"][1][name] -= 1
    assert len(differences(gap, recount(LOG)["v1"])) == 2


def test_an_outcome_that_only_the_log_has_is_named():
    gap = copy.deepcopy(GAP)
    del gap["outcomes"]["timeout"]
    assert differences(gap, recount(LOG)["v1"]) == ["/gap says 0 outcomes timeout, the log has 4"]


def test_a_sampled_text_that_is_nowhere_is_counted():
    gap = copy.deepcopy(GAP)
    gap["counts"]["sampled"] += 1
    assert unaccounted(gap) == 1


def test_bands_weigh_as_many_as_their_requests():
    assert gap_of(GAP, recount(LOG)["v1"]) == pytest.approx(0.8 * 1 / 10 + 0.2 * 3 / 5)


def test_without_a_comparison_in_some_band_the_log_alone_has_no_gap():
    assert gap_of(GAP, {}) is None
    assert gap_of({**GAP, "bands": []}, recount(LOG)["v1"]) is None


def test_the_query_counts_rows_as_the_log_has_them():
    connection = sqlite3.connect(":memory:")
    connection.execute("ATTACH ':memory:' AS reflux")
    connection.execute("CREATE TABLE reflux.rows (bundle TEXT, band INTEGER, outcome TEXT, agree INTEGER)")
    rows = [("v1", 0, "completed", 1), ("v1", 0, "completed", 0), ("v1", 0, None, None), ("v1", 3, "timeout", None)]
    connection.executemany("INSERT INTO reflux.rows VALUES (?, ?, ?, ?)", rows)
    found = [dict(zip(NAMES, map(str, row), strict=True)) for row in connection.execute(ROWS)]
    bands = recount(found)["v1"]
    assert (bands[0].sampled, bands[0].compared, bands[0].disagreements, bands[0].waiting) == (3, 2, 1, 1)
    assert bands[3].outcomes == {"timeout": 1}
