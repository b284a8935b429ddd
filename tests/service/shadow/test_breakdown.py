"""Where the gap hurts: directions and classes in `GET /gap` and in the metrics."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from service.monitor.cells import SLOT_SECONDS
from service.monitor.gap import estimate
from service.shadow.breakdown import LISTED, Breakdown, BreakdownMetrics
from service.shadow.history import History
from service.shadow.slots import DAY, HOUR, Key, slot_of

from .conftest import LABELS, agree, answer

NOW = 1_800_000_000 // DAY * DAY + 10 * HOUR + 130.0
PROPENSITY = (0.1, 0.5)
NAMES = tuple(f"label {position}" for position in range(8))


def lived(days: float, *, classes: int = len(NAMES), start: float = NOW) -> History:
    """A history of `days` until NOW in which the teacher answers from student's class 0 to 1 more often of late."""
    history, generator = History(PROPENSITY), np.random.default_rng(0)
    slots = int(days * DAY // SLOT_SECONDS)
    for time in NOW - SLOT_SECONDS * np.arange(slots)[::-1]:
        history.turn(time)
        for band in (0, 1):
            for _ in range(4):
                history.count_request(time, band, 0.1)
            key = Key(slot_of(time), band, PROPENSITY[band])
            student = int(generator.integers(classes))
            wrong = generator.random() < (0.6 if student == 0 and time > NOW - 6 * HOUR else 0.2)
            teacher = (student + 1) % classes if wrong else student
            history.add(key, "sampled")
            history.add(key, "disagreed" if wrong else "agreed")
            history.add_pair(key, student, teacher)
    return history


@pytest.mark.parametrize("days", [0.02, 0.9, 1.4, 7.9, 8.6, 11.3])
def test_directions_add_up_to_the_gap_however_long_ago_comparisons_were(days):
    history = lived(days)
    report = Breakdown(lambda: history, NAMES, decides=False).report()
    gap = estimate(history.cells())
    assert sum(one["ratio"] for one in report["directions"]) == pytest.approx(gap.gap, rel=0.02)
    assert sum(one["count"] for one in report["directions"]) == gap.disagreed
    assert sum(one["compared"] for one in report["classes"]) == gap.compared


@pytest.mark.parametrize("hours", [1, 6, 24, 7 * 24])
def test_a_window_is_as_long_as_asked_for_in_whole_hours_or_days(hours):
    history = lived(11.3)
    report = Breakdown(lambda: history, NAMES, decides=False).report(NOW - hours * HOUR)
    compared = sum(one["compared"] for one in report["classes"])
    per_hour = 2 * HOUR / SLOT_SECONDS
    assert hours * per_hour <= compared <= (hours + (1.2 if hours <= 24 else 24)) * per_hour


def test_what_changed_of_late_leads_the_list_of_the_window():
    history = lived(3)
    breakdown = Breakdown(lambda: history, NAMES, decides=False)
    recent = breakdown.report(NOW - 6 * HOUR)
    assert (recent["directions"][0]["teacher"], recent["directions"][0]["student"]) == ("label 1", "label 0")
    assert recent["classes"][0]["label"] == "label 0"
    assert recent["classes"][0]["lower"] < 0.6 < recent["classes"][0]["upper"]
    assert recent["directions"][0]["ratio"] > 2 * breakdown.report()["directions"][0]["ratio"]


def test_the_report_follows_every_comparison():
    history = lived(0.1)
    breakdown = Breakdown(lambda: history, NAMES, decides=False)
    before = breakdown.report()
    key = Key(slot_of(NOW), 0, PROPENSITY[0])
    history.add(key, "sampled")
    history.add(key, "disagreed")
    history.add_pair(key, 3, 6)
    after = breakdown.report()
    assert ("label 6", "label 3", 1) in [(one["teacher"], one["student"], one["count"]) for one in after["directions"]]
    assert after != before


def test_metrics_are_bounded_and_the_rest_is_other(monkeypatch):
    monkeypatch.setattr("time.time", lambda: NOW)
    labels = tuple(f"label {position}" for position in range(40))
    registry = CollectorRegistry()
    history = lived(1.5, classes=40)
    registry.register(BreakdownMetrics(Breakdown(lambda: history, labels, decides=False), "v1"))
    families = {family.name: family.samples for family in registry.collect()}
    found = families["reflux_gap_direction"]
    assert len(found) == LISTED + 1
    assert found[-1].labels == {"model_version": "v1", "teacher": "other", "student": "other"}
    assert len(families["reflux_gap_class"]) == LISTED
    assert "reflux_gap_decision" not in families


async def test_the_service_tells_directions_and_classes(make_shadow):
    def reply(texts):
        return wrong(texts) if texts[0].endswith(("3", "7")) else agree(texts)

    async def wrong(texts):
        return [answer("account" if texts[0].endswith("7") else "shipping")]

    shadow = await make_shadow(reply).start()
    assert (shadow.pipeline.gap()["directions"], shadow.pipeline.gap()["classes"]) == ([], [])
    await shadow.process(36)  # four that end in 3, three that end in 7
    await shadow.process(20, label="shipping", text="always billing")
    found = shadow.pipeline.gap()
    assert [(one["teacher"], one["student"], one["count"]) for one in found["directions"]] == [
        ("billing", "shipping", 20),
        ("shipping", "billing", 4),
        ("account", "billing", 3),
    ]
    assert found["directions"][0]["ratio"] == pytest.approx(20 / 56)
    assert [(one["label"], one["compared"]) for one in found["classes"]] == [("shipping", 20), ("billing", 36)]
    assert found["classes"][0]["share"] == pytest.approx(20 / 56)
    assert found["classes"][1]["ratio"] == pytest.approx(7 / 36)
    assert shadow.metric("gap_direction", teacher="account", student="billing") == pytest.approx(3 / 56)
    assert shadow.metric("gap_class", label="shipping") == 1
    assert {one["label"] for one in found["classes"]} <= set(LABELS)
