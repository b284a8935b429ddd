"""Counts in cells: windows, folding of old slots, and what is handed to the outbox."""

from __future__ import annotations

import numpy as np
import pytest

from service.monitor.cells import SLOT_SECONDS
from service.shadow.comparison import Comparison
from service.shadow.history import WITHOUT_ROWS, History
from service.shadow.ledger import DETECTOR_FLOOR, Ledger
from service.shadow.outcome import OUTCOMES, POSITION, Outcome
from service.shadow.slots import DAY, HOUR, Key, Pair, folded, slot_of

NOW = 1_800_000_000 // DAY * DAY + 10 * HOUR + 130.0
PROPENSITY = (0.02, 0.5)


def traffic(history: History, start: float, slots: int, requests: int = 4) -> None:
    """Count requests in both bands in every slot from `start`, of which one is sampled and disagreed about."""
    for slot in range(slots):
        time = start + slot * SLOT_SECONDS
        for band in range(len(PROPENSITY)):
            for _ in range(requests):
                history.count_request(time, band, 0.25)
            for name in ("sampled", "disagreed"):
                history.add(Key(slot_of(time), band, PROPENSITY[band]), name)


def test_a_window_holds_the_requests_of_its_slots():
    history = History(PROPENSITY)
    traffic(history, NOW - 3 * HOUR, 36)
    hour = history.cells().since(slot_of(NOW) - HOUR)
    assert hour.requests.sum() == 12 * 2 * 4
    assert set(hour.propensity) == set(PROPENSITY)
    totals = history.totals(slot_of(NOW) - HOUR)
    assert totals.requests.tolist() == [48, 48]
    assert totals.expected.tolist() == [12, 12]
    assert totals.disagreed.tolist() == totals.outcomes[:, POSITION[Outcome.COMPLETED]].tolist() == [12, 12]
    assert totals.weight == pytest.approx([12 / 0.02, 24])
    assert history.totals().requests.tolist() == [144, 144]


def test_the_running_slot_is_counted_at_once():
    history = History(PROPENSITY)
    history.count_request(NOW, 1, 0.5)
    assert history.changed
    assert history.cells().requests.tolist() == [1]
    assert history.cells().slot.tolist() == [slot_of(NOW)]


def test_a_request_that_is_counted_late_belongs_to_the_slot_of_its_answer():
    history = History(PROPENSITY)
    for time in (NOW - SLOT_SECONDS, NOW, NOW - SLOT_SECONDS, NOW):
        history.count_request(time, 0, 0.25)
    cells = history.cells()
    found = dict(
        zip(cells.slot.tolist(), zip(cells.requests.tolist(), cells.expected.tolist(), strict=True), strict=True)
    )
    assert found == {slot_of(NOW): (2, 0.5), slot_of(NOW) - SLOT_SECONDS: (2, 0.5)}
    assert {key.slot for key in history.take_changes().keys} == set(found)


def test_old_slots_are_folded_into_hours_and_then_into_one():
    history = History(PROPENSITY)
    start = slot_of(NOW) - 9 * DAY
    traffic(history, start, 10 * 288)
    before = history.totals()
    now = start + 10 * 288 * SLOT_SECONDS
    history.turn(now)
    cells = history.cells()
    assert len(cells) <= 2 * (289 + 12 + 7 * 24 + 1)
    age = now - cells.slot
    assert cells.requests[cells.slot == 0].sum() == pytest.approx(2 * 288 * 2 * 4, abs=12 * 2 * 4)
    assert (cells.slot[(age > DAY + HOUR) & (cells.slot > 0)] % HOUR == 0).all()
    assert cells.since(now - DAY).requests.tolist() == [4] * (288 * 2)
    assert history.totals().requests.tolist() == before.requests.tolist()
    assert history.totals().disagreed.tolist() == before.disagreed.tolist()


def test_what_ends_late_is_counted_in_the_cell_of_its_request():
    history = History(PROPENSITY)
    key = Key(slot_of(NOW), 1, 0.5)
    history.add(key, "sampled")
    assert history.cells().pending.tolist() == [1]
    history.turn(NOW + 2 * DAY)
    history.add(key, Outcome.STORE_ERROR)
    assert history.take_changes().keys == [key._replace(slot=slot_of(NOW) // HOUR * HOUR)]
    history.turn(NOW + 20 * DAY)
    history.add_pair(key, 0, 1)
    cells = history.cells()
    assert (cells.slot.tolist(), cells.lost.tolist(), cells.pending.tolist()) == ([0], [1], [0])
    assert history.pairs == {Pair(0, key.band, 0.5, 0, 1): 1}


def test_pairs_of_classes_are_kept_by_hour_then_by_day():
    history = History(PROPENSITY)
    history.turn(NOW)
    for hours in (0, 1, 30, 31, 24 * 12):
        history.add_pair(Key(slot_of(NOW - hours * HOUR), 0, 0.02), 3, 5)
    day = (NOW - 30 * HOUR) // DAY * DAY
    times = {pair.hour: count for pair, count in history.pairs.items()}
    assert times == {NOW // HOUR * HOUR: 1, (NOW - HOUR) // HOUR * HOUR: 1, day: 2, 0: 1}
    history.turn(NOW + 2 * DAY)
    assert sum(history.pairs.values()) == 5
    assert len(history.pairs) == 3


def test_changes_are_values_and_are_given_back_until_they_are_stored():
    history = History(PROPENSITY)
    history.count_request(NOW, 0, 0.25)
    history.add(Key(slot_of(NOW), 0, 0.02), "sampled")
    changes = history.take_changes()
    assert changes.keys == [Key(slot_of(NOW), 0, 0.02)]
    assert dict(zip(WITHOUT_ROWS, changes.values[0], strict=True)) == {
        "requests": 1, "expected": 0.25, "deferred": 0, "queue_full": 0, "store_error": 0, "shutdown": 0,
    }  # fmt: skip
    assert not history.changed
    history.give_back(changes)
    history.count_request(NOW, 0, 0.25)
    history.add(Key(slot_of(NOW), 0, 0.02), Outcome.QUEUE_FULL)
    (values,) = history.take_changes().values
    assert values == [2, 0.5, 0, 1, 0, 0]


def test_a_clock_that_jumps_loses_no_count():
    history = History(PROPENSITY)
    for time in (NOW, NOW + 30 * DAY, NOW - HOUR, NOW):
        traffic(history, time, 1)
    history.turn(NOW)
    assert history.totals().requests.tolist() == [16, 16]
    assert history.cells().pending.sum() == 0


def test_a_slot_is_folded_alike_however_often():
    for slot in range(0, 12 * DAY, SLOT_SECONDS):
        hour = 10 * DAY
        once = folded(slot, hour)
        assert folded(once, hour) == once
        assert once in (0, slot, slot // HOUR * HOUR)


def test_the_threshold_of_the_detector_is_the_comparisons_of_90_days():
    ledger = Ledger(np.array([0.1, 0.2]), PROPENSITY)
    ledger.history.turn(NOW)
    assert ledger.edetector_threshold(NOW) == DETECTOR_FLOOR
    comparison = Comparison(True, 0.0, 0.0, 0, 0)
    for minute in range(0, 600, 5):
        key = Key(slot_of(NOW - 60 * minute), 0, 0.02)
        ledger.compare(key, NOW - 60 * minute, comparison)
    assert ledger.edetector_threshold(NOW) == pytest.approx(120 * 90 * 24 / 10, rel=0.02)
    assert ledger.edetector_threshold(NOW + 30 * DAY) == DETECTOR_FLOOR
    assert ledger.last_comparison == NOW


def test_every_outcome_is_counted_once():
    history = History(PROPENSITY)
    key = Key(slot_of(NOW), 0, 0.02)
    history.add(key, "sampled", len(OUTCOMES))
    history.add(key, "agreed")
    for outcome in OUTCOMES:
        if outcome is not Outcome.COMPLETED:
            history.add(key, outcome)
    assert history.totals().outcomes.tolist() == [[1.0] * len(OUTCOMES), [0.0] * len(OUTCOMES)]
    assert history.cells().pending.tolist() == [0]


def test_counts_of_a_clock_that_was_ahead_are_in_no_window_but_that_since_deployment():
    history = History(PROPENSITY)
    traffic(history, NOW + 3 * DAY, 2)
    history.add_pair(Key(slot_of(NOW + 3 * DAY), 0, PROPENSITY[0]), 0, 1)
    traffic(history, NOW, 1)
    assert history.cells().since(slot_of(NOW) - DAY).requests.sum() == 2 * 4
    assert history.totals(slot_of(NOW) - DAY).requests.sum() == 2 * 4
    assert history.snapshot().cells().requests.sum() == history.totals().requests.sum() == 3 * 2 * 4
    history.turn(NOW + 3 * DAY + 600)  # it was the clock of later that was wrong
    assert history.cells().since(slot_of(NOW) + 3 * DAY).requests.sum() == 2 * 2 * 4
