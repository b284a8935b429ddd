"""Graphs are measured beside one another, so that what slows the machine does not decide between them."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from export.bundle.classifier import Classifier
from export.bundle.format import INT8, PLAIN
from export.graph.speed import ROUNDS, Speeds, measure


class Timed(Classifier):
    """A classifier that takes as long as it says, on a clock of its own."""

    def __init__(self, name, clock, durations):
        self.name, self.clock, self.durations = name, clock, iter(durations)

    def encode(self, text):
        return text

    def run(self, rows):
        self.clock.calls.append((" ".join(rows), self.name))
        self.clock.now += next(self.durations)


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only in a `Timed` classifier, and what was called."""
    clock = SimpleNamespace(now=0.0, calls=[])
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


def test_variants_take_turns_on_every_text(clock):
    classifiers: dict[str, Classifier] = {name: Timed(name, clock, [1.0] * 100) for name in (PLAIN, INT8)}
    measure(classifiers, ["a", "b"])
    assert clock.calls == [("a", PLAIN), ("a", INT8), ("b", PLAIN), ("b", INT8)] * ROUNDS


def test_the_median_milliseconds_are_given(clock):
    slow = [0.002] * (ROUNDS - 1) + [50.0]
    classifiers: dict[str, Classifier] = {PLAIN: Timed(PLAIN, clock, slow), INT8: Timed(INT8, clock, [0.001] * 100)}
    assert measure(classifiers, ["a"]).milliseconds == pytest.approx({PLAIN: 2.0, INT8: 1.0})


def test_texts_share_runs_where_that_is_asked_for(clock):
    steps = []
    slow = Timed(PLAIN, clock, [0.004, 0.001] * 100)
    speeds = measure({PLAIN: slow}, ["a", "b", "c"], steps.append, rows=2)
    assert speeds.milliseconds == pytest.approx({PLAIN: 1.5})
    assert clock.calls == [("a b", PLAIN), ("c", PLAIN)] * ROUNDS
    assert sum(steps) == 3 * ROUNDS


def test_progress_is_told_once_for_each_text_and_round(clock):
    steps = []
    measure({PLAIN: Timed(PLAIN, clock, [1.0] * 100)}, ["a", "b", "c"], steps.append)
    assert sum(steps) == 3 * ROUNDS


def test_a_ratio_is_that_of_runs_beside_one_another():
    """The machine becomes ten times slower while it measures; the second graph takes half the time of the first."""
    slow = np.array([1.0, 1.0, 10.0, 10.0, 10.0])
    speeds = Speeds({PLAIN: slow, INT8: slow / 2 * [1.0, 1.0, 1.0, 1.0, 3.0]})
    assert speeds.ratio(INT8, PLAIN) == 0.5
    assert speeds.quartiles(INT8, PLAIN) == (0.5, 0.5)
    assert speeds.ratio(PLAIN, PLAIN) == 1.0
