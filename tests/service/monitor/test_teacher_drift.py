"""A teacher that changes is found within one round over the anchors; its own noise is not taken for a change."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from service.monitor.teacher_drift import DRAWS, FIRST_DRAWS, LOG_DRIFT, TeacherDrift, chance_of_change
from tests.support.changing_teacher import ANCHORS, NOISES, ChangingTeacher


@pytest.mark.parametrize(("kind", "noise"), NOISES.values(), ids=NOISES)
def test_thirty_quiet_days_raise_nothing(kind, noise) -> None:
    for seed in range(12):
        world = ChangingTeacher.of(kind, noise, seed)
        drift = TeacherDrift(world.recorded())
        assert max(world.ask_round(drift) for _ in range(30)) < LOG_DRIFT
        assert drift.asked < ANCHORS * (30 + FIRST_DRAWS) * 1.25  # what confirming costs


@pytest.mark.parametrize("day", [1, 2, 20], ids="day {}".format)
@pytest.mark.parametrize(("kind", "noise"), NOISES.values(), ids=NOISES)
def test_three_changed_classes_of_77_are_found_within_one_day(kind, noise, day) -> None:
    found = 0
    for seed in range(12):
        world = ChangingTeacher.of(kind, noise, seed)
        drift = TeacherDrift(world.recorded())
        for _ in range(day):
            world.ask_round(drift)
        world.change(3)
        found += world.ask_round(drift) >= LOG_DRIFT
        assert drift.changed >= 3
    assert found >= 11


@pytest.mark.parametrize(
    ("kind", "noise", "classes"),
    [("rare", 0.0, 3), ("rare", 0.02, 8), ("rare", 0.05, 16), ("ambiguous", 0.05, 10)],
    ids=["4 % at no noise", "10 % at 2 %", "21 % at 5 %", "13 % at 5 % in ambiguous texts"],
)
def test_a_change_before_the_first_contact_is_found_if_it_exceeds_the_noise(kind, noise, classes) -> None:
    """The recorded answer is one draw: that it was a slip cannot be told from a change of that one text."""
    found = 0
    for seed in range(20):
        world = ChangingTeacher.of(kind, noise, seed)
        drift = TeacherDrift(world.recorded())
        world.change(classes)
        found += world.ask_round(drift) >= LOG_DRIFT
        assert drift.log_first() == drift.log_evalue()
        assert drift.changed_at_first >= classes
    assert found >= 18


def test_a_constant_teacher_is_asked_once_and_its_change_found_at_first_contact_or_later() -> None:
    for day in (0, 3):
        world = ChangingTeacher.of("rare", 0.0, 1)
        drift = TeacherDrift(world.recorded(), constant=True)
        for _ in range(day):
            assert world.ask_round(drift) < 0
        assert drift.asked == day * ANCHORS
        world.change(3)
        assert world.ask_round(drift) >= LOG_DRIFT


def test_a_change_stays_found_until_the_teacher_answers_as_before_and_is_then_found_again() -> None:
    world = ChangingTeacher.of("rare", 0.02, 3)
    drift = TeacherDrift(world.recorded())
    world.ask_round(drift)
    before = world.labels
    world.change(4)
    after = world.labels
    assert all(world.ask_round(drift) >= LOG_DRIFT for _ in range(40))
    world.labels = before
    world.ask_round(drift)
    assert world.ask_round(drift) < LOG_DRIFT
    world.labels = after
    assert world.ask_round(drift) >= LOG_DRIFT


def test_one_or_two_anchors_that_change_for_good_are_not_yet_a_drift() -> None:
    world = ChangingTeacher.of("rare", 0.0, 1)
    drift = TeacherDrift(world.recorded())
    for _ in range(20):
        world.ask_round(drift)
    world.labels = world.labels.copy()
    world.labels[:2] = 50, 51
    assert world.ask_round(drift) < LOG_DRIFT
    assert drift.changed == 2


def test_a_teacher_that_no_longer_names_labels_is_found() -> None:
    drift = TeacherDrift([0, 1, 2, 3] * 25)
    for index in range(100):
        while drift.add(index, index % 4):
            pass
    for index in range(100):
        while drift.add(index, -1):
            pass
    assert drift.drifts


def test_an_odd_answer_is_asked_again_until_the_label_returns_or_enough_draws_lack_it() -> None:
    drift = TeacherDrift([0, 1])
    assert [drift.add(0, 0) for _ in range(FIRST_DRAWS)] == [True] * (FIRST_DRAWS - 1) + [False]
    assert not drift.add(0, 0)
    assert [drift.add(0, 3), drift.add(0, 4), drift.add(0, 0)] == [True, True, False]
    assert drift.changed == 0
    assert [drift.add(0, 3) for _ in range(DRAWS)] == [True] * (DRAWS - 1) + [False]
    assert (drift.changed, drift.met) == (1, 1)


def test_without_pairs_nothing_is_known_of_the_noise_and_a_change_is_no_evidence() -> None:
    drift = TeacherDrift([0] * 10)
    assert drift.noise == 1.0
    assert drift.log_first() == pytest.approx(0.0)
    drift.pair(differs=False)
    drift.pair(differs=True)
    assert (drift.pairs, drift.differing) == (2, 1)


def test_the_noise_is_clopper_and_pearsons_upper_bound() -> None:
    for differing, pairs in ((0, 1), (3, 200), (40, 41), (300, 9000)):
        drift = TeacherDrift([0], pairs=pairs, differing=differing)
        assert drift.noise == pytest.approx(beta.ppf(0.95, differing + 1, pairs - differing))


def test_the_chance_of_a_false_change_bounds_that_of_any_text() -> None:
    """Of a text with two labels: the first kept in s draws, then missing in all of the following."""
    for kept in (2, 4, 8):
        for p in np.linspace(0.5, 0.999, 200):
            noise = 2 * p * (1 - p)
            truth = p**kept * (1 - p) ** DRAWS + (1 - p) ** kept * p**DRAWS
            assert truth <= chance_of_change(kept, 0, noise) + 1e-12
