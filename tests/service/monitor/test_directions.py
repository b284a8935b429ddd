"""The gap by direction and by class, on simulated traffic whose truth is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from service.monitor.cells import Cells, Floats
from service.monitor.directions import Pairs, classes, directions, pair_weights
from service.monitor.gap import estimate
from tests.support.gap_worlds import BANDS, CHANGING, HOUR, Period, sampled_at, worlds

RUNS = 300
CLASSES = 6
STUDENT = np.array([0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
HARDER = np.array([0.6, 0.8, 1.0, 1.6, 2.5, 4.0])
"""How much more often the teacher disagrees where the student chose each class."""

QUIET = [Period(1.0, 1.0, 0.02)]


def confusion() -> Floats:
    """Return the teacher's class where it disagrees, [student, teacher]: mostly the next one."""
    others = np.full((CLASSES, CLASSES), 0.1 / (CLASSES - 2))
    others[np.arange(CLASSES), (np.arange(CLASSES) + 1) % CLASSES] = 0.9
    np.fill_diagonal(others, 0.0)
    return others


def joint(period: Period) -> Floats:
    """Return the share of requests with each band, student's class and teacher's class, [B, S, T]."""
    world = worlds()["calibrated"]
    scale = STUDENT @ HARDER
    wrong = np.minimum(world.rate[:, None] * period.factor * HARDER / scale, 0.9)
    table = wrong[:, :, None] * confusion()
    table[:, np.arange(CLASSES), np.arange(CLASSES)] = 1 - wrong
    return np.asarray(world.share[:, None, None] * STUDENT[:, None] * table)


def simulated(
    periods: list[Period], runs: int = RUNS, requests: int = 50_000, seed: int = 5
) -> Iterator[tuple[Pairs, Cells, Floats]]:
    """Yield the pairs, the cells and the true share of each pair of classes, [S, T], of each run."""
    generator = np.random.default_rng(seed)
    shares = np.array([period.share * joint(period) for period in periods])  # [H, B, S, T]
    pi = np.array([sampled_at(period.rate) for period in periods])
    kept = np.array([1 - period.lost for period in periods])[:, None, None, None]
    slot: Floats = HOUR * np.arange(1, len(periods) + 1, dtype=np.float64)
    for _ in range(runs):
        there = generator.multinomial(requests, shares.ravel() / shares.sum()).reshape(shares.shape)
        sampled = generator.binomial(there, pi[:, :, None, None])
        compared = generator.binomial(sampled, kept)
        agreed = np.trace(compared, axis1=2, axis2=3)
        cells = Cells.of(
            slot=np.repeat(slot, BANDS),
            band=np.tile(np.arange(BANDS), len(periods)),
            propensity=pi.ravel(),
            requests=there.sum(axis=(2, 3)).ravel(),
            sampled=sampled.sum(axis=(2, 3)).ravel(),
            lost=(sampled - compared).sum(axis=(2, 3)).ravel(),
            agreed=agreed.ravel(),
            disagreed=(compared.sum(axis=(2, 3)) - agreed).ravel(),
        )
        hour, band, student, teacher = np.nonzero(compared)
        pairs = Pairs(
            slot[hour], pi[hour, band], student, teacher, compared[hour, band, student, teacher].astype(float)
        )
        yield pairs, cells, there.sum(axis=(0, 1)) / requests


@pytest.mark.parametrize("periods", [QUIET, *CHANGING.values()], ids=["a rate that stays", *CHANGING])
def test_directions_and_classes_cover_the_truth_without_bias(periods: list[Period]) -> None:
    found: dict[str, list[tuple[float, bool]]] = {}
    for pairs, cells, truth in simulated(periods, RUNS if len(periods) < 9 else RUNS // 3):
        weights = pair_weights(pairs, cells, cells.slot)
        for one in directions(pairs, weights, most=CLASSES**2):
            if one.student is not None and one.teacher == (one.student + 1) % CLASSES:
                true = truth[one.student, one.teacher]
                found.setdefault(f"to {one.teacher}", []).append((one.ratio - true, one.lower <= true <= one.upper))
        for each in classes(pairs, weights):
            true = 1 - truth[each.student, each.student] / truth[each.student].sum()
            found.setdefault(f"class {each.student}", []).append((each.ratio - true, each.lower <= true <= each.upper))
            assert each.share == pytest.approx(truth[each.student].sum(), abs=0.25)
    assert len(found) == 2 * CLASSES
    for name, results in found.items():
        errors, covered = np.array(results).T
        assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(len(errors)) + 0.001, name
        assert covered.mean() >= 0.92, name
    assert np.mean([covered for results in found.values() for _, covered in results]) >= 0.94


def test_weighting_matters_where_the_rate_follows_the_gap() -> None:
    errors = []
    for pairs, _, truth in simulated(CHANGING["a rate of 2 to 20 % as the gap triples"], 50):
        plain = directions(pairs, np.ones(len(pairs)), most=CLASSES**2)
        errors.append(sum(one.ratio for one in plain) - (1 - np.trace(truth)))
    assert np.mean(errors) > 0.03


@pytest.mark.parametrize("periods", [QUIET, *CHANGING.values()], ids=["a rate that stays", *CHANGING])
def test_directions_add_up_to_the_whole_gap(periods: list[Period]) -> None:
    for pairs, cells, _ in simulated(periods, 5):
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
    pairs, cells, _ = next(simulated(QUIET, 1))
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
    pairs, cells, _ = next(simulated(QUIET, 1))
    found = classes(pairs, pair_weights(pairs, cells, cells.slot))
    assert [one.lower for one in found] == sorted((one.lower for one in found), reverse=True)
    assert sum(one.compared for one in found) == cells.compared.sum()


def test_with_equal_weights_the_interval_is_wilsons() -> None:
    pairs = Pairs(np.zeros(2), np.ones(2), np.array([0, 0]), np.array([0, 1]), np.array([16.0, 4.0]))
    cells = Cells.of(slot=[0], requests=[20], sampled=[20], agreed=[16], disagreed=[4])
    (found,) = directions(pairs, pair_weights(pairs, cells, cells.slot))
    assert (found.ratio, found.count) == (pytest.approx(0.2), 4)
    assert (found.lower, found.upper) == (pytest.approx(0.0807, abs=1e-4), pytest.approx(0.4160, abs=1e-4))


def test_comparisons_whose_classes_are_not_known_are_left_out() -> None:
    """As those of an outbox of an earlier version, in slot 0."""
    pairs = Pairs(np.array([3600.0] * 2), np.full(2, 0.5), np.array([0, 0]), np.array([0, 1]), np.array([8.0, 2.0]))
    cells = Cells.of(
        slot=[0, 3600], propensity=0.5, requests=[900, 20], sampled=[450, 10], agreed=[0, 8], disagreed=[450, 2]
    )
    weights = pair_weights(pairs, cells, cells.slot)
    assert weights @ pairs.count == pytest.approx(1)
    assert directions(pairs, weights)[0].ratio == pytest.approx(0.2)


def test_a_tally_of_other_requests_has_no_weight() -> None:
    pairs = Pairs(np.array([0.0, 3600]), np.array([1.0, 0.5]), np.array([0, 0]), np.array([0, 1]), np.array([8.0, 2.0]))
    cells = Cells.of(slot=[0], requests=[10], sampled=[10], agreed=[8], disagreed=[0])
    weights = pair_weights(pairs, cells, cells.slot)
    assert weights.tolist() == [0.125, 0]
    assert directions(pairs, weights) == []
    assert [(one.ratio, one.compared) for one in classes(pairs, weights)] == [(0, 8)]


def test_without_comparisons_there_is_nothing() -> None:
    nothing = Pairs(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    weights = pair_weights(nothing, Cells.of(slot=[300], requests=[5]), np.array([0.0]))
    assert (directions(nothing, weights), classes(nothing, weights)) == ([], [])
