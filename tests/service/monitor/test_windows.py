"""The windows of the gap: what is in each, and how they are judged together."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.monitor.cells import SLOT_SECONDS, Cells
from service.monitor.evalues import LOG_PAGE
from service.monitor.gap import estimate
from service.monitor.gap_evalues import log_exceeds, log_keeps
from service.monitor.windows import NAMES, RECENT, WEIGHTS, Window, combined, log_certify, measure, start_of

NOW = 1_800_000_123.0
NULL = np.array([0.02, 0.1, 0.3])
SLO = 0.105


def hour_of_trouble(minutes: float = 60.0) -> Cells:
    """Return three weeks of a calm gap of 5 %, and 40 % in the last `minutes`, sampled at 10 %."""
    slots = np.arange(start_of("7d", NOW) - 14 * 86_400, NOW, SLOT_SECONDS)
    late = slots > NOW - 60 * minutes
    wrong = np.where(late, 8.0, 1.0)
    return Cells.of(slot=slots, band=1, propensity=0.1, requests=200, sampled=20, agreed=20 - wrong, disagreed=wrong)


def test_an_hour_is_twelve_slots_with_the_running_one() -> None:
    running = NOW // SLOT_SECONDS * SLOT_SECONDS
    assert start_of("1h", NOW) == running - 11 * SLOT_SECONDS
    assert start_of("1d", NOW) == running - 287 * SLOT_SECONDS
    assert start_of("since", NOW) == 0.0
    with pytest.raises(KeyError):
        start_of("2h", NOW)


def test_an_hour_of_trouble_is_seen_in_its_window_and_hardly_in_the_others() -> None:
    windows = measure(hour_of_trouble(), NOW, SLO, [(0.0, NULL)])
    assert list(windows) == list(NAMES)
    gaps = {name: window.estimate for name, window in windows.items()}
    hour, since = gaps["1h"], gaps["since"]
    assert hour is not None
    assert since is not None
    assert hour.gap == pytest.approx(0.4)
    assert 0.3 < hour.lower < 0.4 < hour.upper < 0.5
    assert since.gap < 0.052
    assert windows["1h"].compared == 240
    assert windows["1h"].log_evalue > LOG_PAGE
    assert windows["since"].log_evalue < 0.0
    assert combined(list(windows.values())) > LOG_PAGE


def test_a_window_has_the_numbers_of_its_cells() -> None:
    cells = hour_of_trouble()
    day = measure(cells, NOW, SLO, [(0.0, NULL)])["1d"]
    part = cells.since(start_of("1d", NOW))
    assert day.estimate == estimate(part)
    assert day.log_evalue_gap == pytest.approx(log_exceeds(part, SLO))
    assert (day.requests, day.sampled, day.lost, day.compared) == (288 * 200, 288 * 20, 0, 288 * 20)
    assert day.lost_ratio == 0.0


def test_the_evidence_of_windows_is_their_mean() -> None:
    def window(log_gap: float, log_bands: float) -> Window:
        return Window("1h", None, log_gap, log_bands, 0, 0, 0, 0, 0)

    hour, since = (math.exp(2) + math.exp(1)) / 2, 1.0
    mean = (0.02 * hour + 0.4 * since) / 0.42
    assert combined([window(2, 1), replace(window(0, 0), name="since")]) == pytest.approx(math.log(mean))
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    assert list(WEIGHTS) == list(NAMES)
    assert window(0, 0).lost_ratio is None


def test_a_certificate_is_of_the_week_if_it_holds_enough() -> None:
    cells = hour_of_trouble(minutes=7 * 1440)
    week = cells.since(start_of("7d", NOW))
    assert week.compared.sum() >= RECENT
    assert log_certify(cells, NOW, SLO) == pytest.approx(log_keeps(week, SLO))
    assert log_keeps(week, SLO) < 0 < log_keeps(cells.where(cells.slot < week.slot.min()), SLO)
    few = cells.where(np.arange(len(cells)) % 100 == 0)
    assert log_certify(few, NOW, SLO) == pytest.approx(log_keeps(few, SLO))


def certified_after(lost: int, sampled: int) -> float:
    """Return the certificate of a calm week after two hours in which `lost` of `sampled` comparisons per slot were."""
    slots = np.arange(start_of("7d", NOW), NOW, SLOT_SECONDS)
    down = (slots >= 1_799_946_000) & (slots < 1_799_953_200)  # two whole hours
    failed = np.where(down, lost, 0)
    compared = np.where(down, sampled - lost, 20)
    counts = {"sampled": failed + compared, "lost": failed, "agreed": compared - 1.0 * (compared > 1)}
    return log_certify(
        Cells.of(slot=slots, propensity=0.1, requests=200, disagreed=1.0 * (compared > 1), **counts), NOW, SLO
    )


def test_a_burst_of_pending_texts_does_not_interrupt_a_certificate_for_an_hour() -> None:
    slots = np.arange(start_of("1d", NOW), NOW, SLOT_SECONDS)
    calm = Cells.of(slot=slots, band=1, propensity=0.1, requests=200, sampled=20, agreed=19, disagreed=1)
    certified = log_certify(calm, NOW, SLO)
    assert certified > math.log(20)
    running = start_of("1h", NOW) + 11 * SLOT_SECONDS
    burst = Cells.of(slot=[running], band=1, propensity=0.1, requests=[40_000], sampled=[4_000])
    assert log_certify(calm + burst, NOW, SLO) == pytest.approx(log_certify(calm.where(calm.slot < running), NOW, SLO))
    assert log_certify(calm + burst, NOW + 3600, SLO) < 0.0


def test_an_outage_does_not_cost_the_certificate_but_scattered_losses_do() -> None:
    calm = certified_after(lost=0, sampled=20)
    assert certified_after(lost=19, sampled=20) > 0.9 * calm > 0
    assert certified_after(lost=3, sampled=20) < calm


def test_a_refusal_in_an_hour_of_few_samples_counts_against_the_student() -> None:
    hours = np.arange(1, 400) * 3600.0
    few: dict[str, Any] = {"slot": NOW // 3600 * 3600 - hours, "propensity": 0.1, "requests": 40, "sampled": 4}
    refused = np.where(hours % (3 * 3600) == 0, 1.0, 0.0)
    open_eyed = log_certify(Cells.of(**few, lost=refused, agreed=4 - refused), NOW, SLO)
    assert open_eyed < log_certify(Cells.of(**few, agreed=4), NOW, SLO)
    assert open_eyed == pytest.approx(
        log_certify(Cells.of(**few, disagreed=refused, agreed=4 - refused), NOW, SLO)
    )  # a refusal is as bad as a disagreement
