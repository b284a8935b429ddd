"""The age of waiting texts does not depend on the wall clock, which may be set."""

from __future__ import annotations

import sqlite3
import time

import pytest

from tests.support.waiting import until

from .conftest import Shadow, hang

YEARS = 10 * 365 * 86400.0


@pytest.fixture
def set_clock(monkeypatch):
    """`set_clock(seconds)`: set the wall clock forward or back."""
    now = time.time
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: now() + seconds)


def age(shadow: Shadow) -> float:
    """Return the age of the oldest waiting text, which the metric and the report agree on."""
    reported = shadow.pipeline.gap()["queue"]["oldest_age_seconds"]
    assert shadow.metric("shadow_oldest_age_seconds") == pytest.approx(reported, abs=5.0)
    return reported


@pytest.mark.parametrize("step", [YEARS, -YEARS, 3600.0, -3600.0])
async def test_setting_the_clock_changes_no_age(make_shadow, set_clock, step):
    shadow = await make_shadow(hang, concurrency=1).start()
    shadow.observe(3)
    assert 0.0 <= age(shadow) < 30.0  # in memory
    await until(lambda: shadow.metric("shadow_inflight") == 1)
    set_clock(step)
    assert 0.0 <= age(shadow) < 30.0  # at the teacher, and in the outbox
    shadow.observe(1)
    assert 0.0 <= age(shadow) < 30.0


@pytest.mark.parametrize(("ago", "expected"), [(3600.0, 3600.0), (-3600.0, 0.0), (YEARS, 0.0), (-YEARS, 0.0)])
async def test_rows_of_an_earlier_process_keep_their_age_if_the_clocks_fit(make_shadow, set_clock, ago, expected):
    shadow = await make_shadow(hang, stop_seconds=2.0).start()
    shadow.observe(2)
    await shadow.pipeline.stop()
    with sqlite3.connect(shadow.settings.path) as other:
        other.execute("UPDATE rows SET time = time - ?", (ago,))
    again = await make_shadow(hang, concurrency=1).start()
    await until(lambda: again.metric("shadow_inflight") == 1)
    assert age(again) == pytest.approx(expected, abs=30.0)
    set_clock(YEARS)
    assert age(again) == pytest.approx(expected, abs=30.0)


@pytest.mark.parametrize("seconds", [YEARS, -7 * YEARS])
async def test_with_any_clock_there_is_a_report_and_what_it_counted_does_not_stay_in_the_last_hour(
    make_shadow, monkeypatch, seconds
):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + seconds)
    shadow = await make_shadow().start()
    await shadow.process(20)
    for window in ("1h", "7d", "since"):
        assert shadow.pipeline.gap(window)["counts"]["compared"] == 20
        assert shadow.pipeline.gap_history(window)["points"] is not None
    assert shadow.metric("gap_window_compared", window="since") == 20
    monkeypatch.setattr(time, "time", now)
    await shadow.process(5)
    assert shadow.pipeline.gap("1h")["counts"]["compared"] == 5
    assert shadow.pipeline.gap()["counts"]["compared"] == 25
    assert sum(one["compared"] for one in shadow.pipeline.gap("7d")["classes"]) == 5


async def test_the_age_of_the_last_comparison_is_a_metric_once_there_is_one(make_shadow, set_clock):
    shadow = await make_shadow().start()
    name = "reflux_shadow_last_comparison_age_seconds"
    assert shadow.registry.get_sample_value(name) is None
    await shadow.process(5)
    set_clock(3600.0)
    reported = shadow.pipeline.gap()["last_comparison_age_seconds"]
    assert shadow.registry.get_sample_value(name) == pytest.approx(reported, abs=30.0)
    assert reported == pytest.approx(3600.0, abs=60.0)
