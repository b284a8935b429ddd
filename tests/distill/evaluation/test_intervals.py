"""Intervals hold the truth as often as they say. Wilson's coverage is summed exactly, the bootstrap's simulated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from distill.evaluation.intervals import paired_bootstrap, wilson


def coverage(trials: int, share: float, level: float) -> float:
    """The probability that Wilson's interval holds the true share."""
    successes = np.arange(trials + 1)
    held = [wilson(int(k), trials, level) for k in successes]
    inside = [interval.lower <= share <= interval.upper for interval in held]
    return float(binom.pmf(successes, trials, share)[inside].sum())


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("trials", [20, 100, 400])
def test_wilson_covers_as_often_as_it_says(trials, level):
    covered = [coverage(trials, share, level) for share in np.linspace(0.05, 0.95, 91)]
    assert np.mean(covered) == pytest.approx(level, abs=0.01)
    assert min(covered) > level - 0.12  # with few trials it must swing


def test_wilson_agrees_with_the_published_example():
    interval = wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert interval.value == pytest.approx(81 / 263)
    assert (interval.lower, interval.upper) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


def test_wilson_is_honest_at_the_ends():
    none, every = wilson(0, 50), wilson(50, 50)
    assert (none.value, none.lower) == (0.0, 0.0)
    assert (every.value, every.upper) == (1.0, 1.0)
    assert none.upper == pytest.approx(1 - every.lower)
    assert 0.05 < none.upper < 0.1


def ratio_and_difference(means: np.ndarray) -> np.ndarray:
    teacher, student = means[..., 0], means[..., 1]
    return np.stack([student / teacher, teacher - student], axis=-1)


def test_the_bootstrap_of_paired_accuracies_covers_as_often_as_it_says():
    generator = np.random.default_rng(7)
    # Teacher right, student right: both, teacher alone, student alone, neither.
    cells = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=np.float64)
    shares = np.array([0.82, 0.08, 0.04, 0.06])
    truth = ratio_and_difference(shares @ cells)
    runs, hits = 300, np.zeros(2)
    for run in range(runs):
        rows = cells[generator.choice(4, size=250, p=shares)]
        intervals = paired_bootstrap(rows, ratio_and_difference, resamples=250, seed=run)
        hits += [interval.lower <= value <= interval.upper for interval, value in zip(intervals, truth, strict=True)]
    # Four standard errors of the simulation around 0.95, and a little for 250 resamples.
    slack = 4 * np.sqrt(0.95 * 0.05 / runs)
    assert np.all(hits / runs > 0.95 - slack - 0.01)
    assert np.all(hits / runs <= 0.95 + slack)


def test_pairing_makes_differences_narrow():
    generator = np.random.default_rng(3)
    teacher = generator.random(400) < 0.8
    columns = np.column_stack([teacher, teacher]).astype(np.float64)
    columns[:4, 1] = 1 - columns[:4, 1]
    _, difference = paired_bootstrap(columns, ratio_and_difference)
    assert difference.upper - difference.lower < 0.03  # unpaired, it would be about 0.11
    assert difference.lower <= difference.value <= difference.upper


def test_a_bootstrap_of_means_is_the_normal_interval():
    columns = np.random.default_rng(0).normal(size=(500, 1))
    (interval,) = paired_bootstrap(columns, lambda means: means)
    half = 1.96 * columns.std() / np.sqrt(500)
    assert interval.value == pytest.approx(columns.mean())
    assert interval.lower == pytest.approx(columns.mean() - half, abs=0.01)
    assert interval.upper == pytest.approx(columns.mean() + half, abs=0.01)


def test_a_bootstrap_is_repeatable_and_its_seed_counts():
    columns = np.random.default_rng(0).normal(size=(50, 2))
    same = [paired_bootstrap(columns, lambda means: means, resamples=300, seed=1) for _ in range(2)]
    assert same[0] == same[1]
    assert paired_bootstrap(columns, lambda means: means, resamples=300, seed=2) != same[0]
