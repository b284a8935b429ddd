"""The cost of a run is learned from runs: close to the truth despite noise, soon after a change, and never absurd."""

import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.inference.cost_model import Cost, whole_seconds

A, B = 2e-5, 1e-3


def run(generator, speed=1.0, noise=0.1):
    """Return the tokens and seconds of a run on a machine that takes A per token and B per run."""
    tokens = generator.randint(4, 512)
    return tokens, (A * tokens + B) * speed * generator.uniform(1 - noise, 1 + noise)


def learned(*runs):
    cost = Cost()
    for tokens, seconds in runs:
        cost.learn(tokens, seconds)
    return cost


def test_before_the_first_run_nothing_is_predicted():
    cost = Cost()
    assert cost.seconds(10**6, 10**3) == 0.0
    assert cost.slack == 0.0


def test_after_one_run_a_similar_one_is_predicted_to_cost_the_same():
    assert learned((100, 0.2)).seconds(100, 1) == pytest.approx(0.2)


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_comes_near_the_truth_despite_noise(seed):
    generator = random.Random(seed)
    cost = learned(*(run(generator) for _ in range(500)))
    for tokens, runs in [(16, 1), (256, 1), (1000, 10), (5000, 10)]:
        assert cost.seconds(tokens, runs) == pytest.approx(A * tokens + B * runs, rel=0.15)


def test_without_noise_tokens_and_runs_are_told_apart():
    cost = learned(*(run(random.Random(seed), noise=0.0) for seed in range(200)))
    assert cost.seconds(1000, 0) == pytest.approx(1000 * A, rel=0.02)
    assert cost.seconds(0, 1) == pytest.approx(B, rel=0.05)
    assert cost.slack == pytest.approx(B / A, rel=0.05)


@pytest.mark.parametrize("alike", [False, True], ids=["runs of every size", "runs of one size"])
@pytest.mark.parametrize("speed", [0.25, 4.0])
def test_the_fit_follows_a_machine_that_changes_however_long_it_ran_before(alike, speed):
    generator = random.Random(0)
    cost = Cost()
    for now in [1.0] * 10_000 + [speed] * 300:
        tokens, seconds = run(generator, now)
        cost.learn(*((256, (A * 256 + B) * now) if alike else (tokens, seconds)))
    assert cost.seconds(256, 1) == pytest.approx((A * 256 + B) * speed, rel=0.15)


@pytest.mark.parametrize("tokens", [1, 16, 65536])
def test_equal_runs_leave_the_fit_stable(tokens):
    cost = learned(*[(tokens, 0.01)] * 100_000)
    assert cost.seconds(tokens, 1) == pytest.approx(0.01)
    assert cost.seconds(2 * tokens, 2) == pytest.approx(0.02)
    assert 0.01 < cost.seconds(2 * tokens, 1) < 0.02
    cost.learn(2 * tokens, 0.1)
    assert 0.01 < cost.seconds(tokens, 1) < 0.02, "one strange run tells little"
    assert cost.seconds(2 * tokens, 1) < 0.2


@settings(deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(0, 65536), st.floats(0, 100)), max_size=60),
    tokens=st.integers(0, 10**7),
    count=st.integers(0, 10**4),
)
@example(runs=[(10, 1.0), (100, 0.1)] * 10, tokens=10_000, count=1)
@example(runs=[(10, 0.0), (100, 1.0)] * 10, tokens=0, count=1000)
def test_no_prediction_is_negative_or_nan(runs, tokens, count):
    cost = learned(*runs)
    assert 0.0 <= cost.seconds(tokens, count) < math.inf
    assert 0.0 <= cost.slack < math.inf


@pytest.mark.parametrize(("seconds", "whole"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.01, 2), (59.5, 60)])
def test_retry_after_is_a_whole_number_and_not_too_small(seconds, whole):
    assert whole_seconds(seconds) == whole


def test_the_spread_is_relative_and_one_long_pause_hardly_changes_it():
    generator = random.Random(3)
    steady = learned(*(run(generator, noise=0.0) for _ in range(500)))
    assert steady.spread < 0.05
    straying = learned(*(run(generator, noise=0.5) for _ in range(500)))
    assert straying.spread == pytest.approx(0.5 / math.sqrt(3), rel=0.3)  # of a uniform distribution
    steady.learn(100, 60.0)
    assert steady.spread < 0.2
