"""The gap by direction and by class, on simulated traffic whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from service.monitor.cells import Cells
from service.monitor.directions import Pairs, classes, directions, pair_weights
from service.monitor.gap import estimate
from tests.support.gap_pairs import CLASSES, DAYS, measured, simulated

RUNS = 300


def agreed_and_disagreed(period: list[float], propensity: list[float], count: list[float]) -> Pairs:
    """Return two tallies of one band and one class of the student's, the second of disagreements."""
    same = np.zeros(2, dtype=np.int64)
    return Pairs(np.array(period, float), same, np.array(propensity, float), same, np.arange(2), np.array(count, float))


@pytest.mark.parametrize("day", DAYS)
def test_directions_and_classes_cover_the_truth_without_bias(day: str) -> None:
    found = measured(DAYS[day], RUNS if len(DAYS[day]) < 9 else RUNS // 3)
    assert len(found) == 2 * CLASSES
    for name, (errors, covered) in found.items():
        assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(len(errors)) + 0.001, name
        assert covered.mean() >= 0.92, name
    assert np.mean(np.concatenate([covered for _, covered in found.values()])) >= 0.94


def test_weighting_matters_where_the_rate_follows_the_gap() -> None:
    errors = []
    for pairs, _, truth in simulated(DAYS["a rate of 2 to 20 % as the gap triples"], 50):
        plain = directions(pairs, np.ones(len(pairs)), most=CLASSES**2)
        errors.append(sum(one.ratio for one in plain) - (1 - np.trace(truth)))
    assert np.mean(errors) > 0.03


@pytest.mark.parametrize("day", DAYS)
def test_directions_add_up_to_the_whole_gap(day: str) -> None:
    for pairs, cells, _ in simulated(DAYS[day], 5):
        weights = pair_weights(pairs, cells, cells.slot)
        gap = estimate(cells)
        assert gap is not None
        for most in (2, CLASSES**2):
            listed = directions(pairs, weights, most)
            assert sum(one.ratio for one in listed) == pytest.approx(gap.gap, rel=1e-9)
            assert sum(one.count for one in listed) == gap.disagreed
        by_class = classes(pairs, weights)
        assert sum(one.share * one.ratio for one in by_class) == pytest.approx(gap.gap, rel=1e-9)
        assert sum(one.share for one in by_class) == pytest.approx(1)


def test_the_most_frequent_directions_come_first_and_the_others_are_summed() -> None:
    pairs, cells, _ = next(simulated(DAYS["a rate that stays"], 1))
    weights = pair_weights(pairs, cells, cells.slot)
    every, short = directions(pairs, weights, 100), directions(pairs, weights, 3)
    ratios = [one.ratio for one in every]
    assert ratios == sorted(ratios, reverse=True)
    assert short[:3] == every[:3]
    other = short[3]
    assert (other.teacher, other.student) == (None, None)
    assert other.ratio == pytest.approx(sum(ratios[3:]))
    assert len(directions(pairs, weights, len(every))) == len(every)


def test_classes_come_by_their_lower_bound() -> None:
    pairs, cells, _ = next(simulated(DAYS["a rate that stays"], 1))
    found = classes(pairs, pair_weights(pairs, cells, cells.slot))
    assert [one.lower for one in found] == sorted((one.lower for one in found), reverse=True)
    assert sum(one.compared for one in found) == cells.compared.sum()


def test_with_equal_weights_the_interval_is_wilsons() -> None:
    pairs = agreed_and_disagreed([0, 0], [1, 1], [16, 4])
    cells = Cells.of(slot=[0], requests=[20], sampled=[20], agreed=[16], disagreed=[4])
    (found,) = directions(pairs, pair_weights(pairs, cells, cells.slot))
    assert (found.ratio, found.count) == (pytest.approx(0.2), 4)
    assert (found.lower, found.upper) == (pytest.approx(0.0807, abs=1e-4), pytest.approx(0.4160, abs=1e-4))


def test_comparisons_whose_classes_are_not_known_are_left_out() -> None:
    """As those of an outbox of an earlier version, in slot 0."""
    pairs = agreed_and_disagreed([3600, 3600], [0.5, 0.5], [8, 2])
    cells = Cells.of(
        slot=[0, 3600], propensity=0.5, requests=[900, 20], sampled=[450, 10], agreed=[0, 8], disagreed=[450, 2]
    )
    weights = pair_weights(pairs, cells, cells.slot)
    assert weights @ pairs.count == pytest.approx(1)
    assert directions(pairs, weights)[0].ratio == pytest.approx(0.2)


def test_a_tally_of_other_requests_has_no_weight() -> None:
    pairs = agreed_and_disagreed([0, 3600], [1, 0.5], [8, 2])
    cells = Cells.of(slot=[0], requests=[10], sampled=[10], agreed=[8], disagreed=[0])
    weights = pair_weights(pairs, cells, cells.slot)
    assert weights.tolist() == [0.125, 0]
    assert directions(pairs, weights) == []
    assert [(one.ratio, one.compared) for one in classes(pairs, weights)] == [(0, 8)]


def test_without_comparisons_there_is_nothing() -> None:
    nothing = agreed_and_disagreed([0, 0], [1, 1], [8, 2]).since(1)
    weights = pair_weights(nothing, Cells.of(slot=[300], requests=[5]), np.array([0.0]))
    assert (directions(nothing, weights), classes(nothing, weights)) == ([], [])
