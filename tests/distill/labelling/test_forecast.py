"""A forecast's intervals hold what they promise, by simulation, and what is not known is not made up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from distill.evaluation.intervals import Interval
from distill.labelling.forecast import Forecast, ObservedCosts, PlannedCalls, duration, forecast, guess, lines_of, total
from distill.teachers.api.pricing import Price, Usage

PRICE = Price(input=0.4, cached=0.1, output=1.6)
FRAME = 1500  # bytes of a request that are the same for every text

Noise = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def sizes_of(generator: np.random.Generator, count: int) -> np.ndarray:
    """Lengths of texts in bytes: skewed, as those of tickets are."""
    return np.round(np.exp(generator.normal(5.5, 0.7, count))) + 20


def even(generator: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    return generator.normal(0, 8, len(sizes))


def growing(generator: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    return generator.normal(0, 1, len(sizes)) * sizes * 0.06


def skewed(generator: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    return generator.gamma(1.5, 20, len(sizes)) - 30


def coverage(noise: Noise, seen: int, ahead: int, *, longest_first: bool = False, runs: int = 600) -> float:
    """How often the interval has the true total, where tokens are affine in the bytes but for noise."""
    generator = np.random.default_rng(7)
    hits = 0
    for _ in range(runs):
        sizes = sizes_of(generator, seen + ahead)
        if longest_first:
            sizes = np.sort(sizes)[::-1]
        values = 0.25 * FRAME + 0.23 * sizes + noise(generator, sizes)
        interval = total(sizes[:seen], values[:seen], sizes[seen:])
        hits += interval.lower <= values[seen:].sum() <= interval.upper
    return hits / runs


@pytest.mark.parametrize("noise", [even, growing, skewed])
@pytest.mark.parametrize(("seen", "ahead"), [(10, 500), (50, 50), (200, 2000)])
def test_the_interval_of_a_total_covers_it_at_about_its_level(noise, seen, ahead) -> None:
    assert 0.91 <= coverage(noise, seen, ahead) <= 0.99


@pytest.mark.parametrize("noise", [even, growing, skewed])
def test_it_does_so_where_the_longest_texts_were_answered_first(noise) -> None:
    assert coverage(noise, 100, 900, longest_first=True) >= 0.9


def test_a_mean_would_not_do_where_the_longest_texts_were_answered_first() -> None:
    generator = np.random.default_rng(1)
    sizes = np.sort(sizes_of(generator, 1000))[::-1]
    values = 0.25 * FRAME + 0.23 * sizes + even(generator, sizes)
    interval = total(sizes[:100], values[:100], sizes[100:])
    assert interval.value == pytest.approx(values[100:].sum(), rel=0.02)
    assert values[:100].mean() * 900 > 1.3 * values[100:].sum()


def test_the_level_is_what_was_asked_for() -> None:
    generator = np.random.default_rng(3)
    hits = {0.5: 0, 0.95: 0}
    for _ in range(600):
        sizes = sizes_of(generator, 230)
        values = sizes + even(generator, sizes)
        for level in hits:
            interval = total(sizes[:30], values[:30], sizes[30:], level)
            hits[level] += interval.lower <= values[30:].sum() <= interval.upper
    assert 0.44 <= hits[0.5] / 600 <= 0.56
    assert 0.93 <= hits[0.95] / 600 <= 0.97


def test_a_value_that_is_the_same_for_all_is_forecast_exactly() -> None:
    sizes = np.array([10.0, 20.0, 30.0, 40.0])
    interval = total(sizes, np.full(4, 2.0), np.full(50, 25.0))
    assert (interval.value, interval.lower, interval.upper) == pytest.approx((100.0, 100.0, 100.0))


def test_texts_of_one_length_have_their_mean() -> None:
    interval = total(np.full(4, 7.0), np.array([1.0, 2.0, 3.0, 2.0]), np.full(10, 7.0))
    assert interval.value == pytest.approx(20.0)
    assert 0 < interval.lower < 10 < 30 < interval.upper < 40


# What is put together


def planned(
    calls: int, *, price: Price = PRICE, slots: int = 8, least_seconds: float = 0.0, output: int = 1
) -> PlannedCalls:
    return PlannedCalls(price, calls, calls * (FRAME + 300), calls * output, slots, least_seconds)


def history(count: int, *, calls: float = 1.0, seconds: float = 0.5) -> ObservedCosts:
    generator = np.random.default_rng(5)
    sizes = sizes_of(generator, count)
    usd = (0.25 * FRAME + 0.23 * sizes + even(generator, sizes)) * 0.4e-6
    return ObservedCosts(sizes, np.full(count, calls), usd, seconds * generator.uniform(0.8, 1.2, count))


NOTHING = ObservedCosts(*(np.zeros(0),) * 4)
AHEAD = sizes_of(np.random.default_rng(6), 1000)


def test_with_nothing_seen_the_cost_lies_between_bounds_and_the_time_is_not_known() -> None:
    made = forecast("m", 1200, 1000, AHEAD, [planned(1000)], NOTHING, 0.0)
    assert made.calls == Interval(1000, 1000, 1000)
    assert made.usd.lower < 0.25 * 1000 * (FRAME + 300) * 0.4e-6 < made.usd.upper < made.most_usd
    assert made.usd.upper > 3 * made.usd.lower
    assert (made.seconds, made.learnt_from) == (None, 0)
    assert any("unknown" in line for line in made.lines())
    assert any("--max-usd" in line for line in made.lines())


def test_a_few_answers_are_too_few_to_learn_from() -> None:
    assert forecast("m", 1200, 1000, AHEAD, [planned(1000)], history(9), 0.0).learnt_from == 0
    assert forecast("m", 1200, 1000, AHEAD, [planned(1000)], history(10), 0.0).learnt_from == 10


def test_what_was_seen_makes_the_forecast_narrow() -> None:
    made = forecast("m", 1200, 1000, AHEAD, [planned(1000)], history(200), 0.1)
    truth = (0.25 * FRAME + 0.23 * AHEAD).sum() * 0.4e-6
    assert made.usd.lower < truth < made.usd.upper
    assert made.usd.upper - made.usd.lower < 0.05 * truth
    assert made.batch_usd.value == pytest.approx(made.usd.value / 2)
    assert made.seconds is not None
    assert made.seconds.lower < 1000 * 0.5 / 8 < made.seconds.upper < 1.1 * made.seconds.lower
    assert made.spent_usd == 0.1


def test_time_is_not_less_than_the_limits_of_the_api_allow() -> None:
    made = forecast("m", 1200, 1000, AHEAD, [planned(1000, least_seconds=900.0)], history(200), 0.0)
    assert made.seconds == Interval(900.0, 900.0, 900.0)


def test_calls_whose_time_is_not_known_make_no_forecast_of_time() -> None:
    assert forecast("m", 1200, 1000, AHEAD, [planned(1000)], history(200, seconds=0.0), 0.0).seconds is None


def test_calls_that_follow_from_the_first_ones_are_forecast_from_what_texts_took() -> None:
    made = forecast("m", 1200, 1000, AHEAD, [planned(1000)], history(200, calls=3.0), 0.0)
    assert made.calls.value == pytest.approx(3000)
    assert made.most_usd == pytest.approx(3 * PRICE.max_cost(1000 * (FRAME + 300), 1000))


def test_a_forecast_is_within_what_calls_can_cost() -> None:
    dear = ObservedCosts(np.full(20, 300.0), np.ones(20), np.full(20, 1.0), np.ones(20))
    made = forecast("m", 1200, 1000, AHEAD, [planned(1000)], dear, 0.0)
    assert made.usd.value == made.usd.upper == made.most_usd


def test_a_server_of_ones_own_costs_nothing() -> None:
    made = forecast("m", 1200, 1000, AHEAD, [planned(1000, price=Price(input=0, output=0))], NOTHING, 0.0)
    assert (made.usd, made.most_usd) == (Interval(0, 0, 0), 0.0)


def test_nothing_to_ask_costs_nothing_and_takes_no_time() -> None:
    made = forecast("m", 200, 0, np.zeros(0), [], history(200), 0.3)
    assert made.calls == made.usd == made.batch_usd == made.seconds == Interval(0.0, 0.0, 0.0)
    assert "0 of 200 texts to ask" in made.lines()[0]


def test_batch_prices_are_each_apis_own() -> None:
    cheap, dear = (
        planned(1000, price=Price(input=1, output=1, batch=0.5)),
        planned(1000, price=Price(input=3, output=3, batch=1)),
    )
    made = forecast("m", 1000, 1000, AHEAD, [cheap, dear], NOTHING, 0.0)
    assert made.batch_usd.value == pytest.approx(made.usd.value * (1 * 0.5 + 3 * 1) / 4)


@pytest.mark.parametrize("output", [1, 400])
@pytest.mark.parametrize("tokens_per_byte", [0.15, 0.25, 0.5])
def test_a_guess_holds_for_english_for_dense_scripts_and_for_any_length_of_answer(tokens_per_byte, output) -> None:
    interval = guess([planned(100, output=output)])
    for spoken in (1, output):
        usage = Usage(input=round(tokens_per_byte * 100 * (FRAME + 300)), output=100 * spoken)
        assert interval.lower <= PRICE.cost(usage) <= interval.upper


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (0.4, "under 1 s"), (45, "45 s"), (90, "2 min"), (5399, "90 min"), (12600, "3.5 h")],
)
def test_a_duration_is_said_in_its_own_unit(seconds, said) -> None:
    assert duration(seconds) == said


def test_the_steps_of_a_run_are_added_up_with_what_was_paid_before() -> None:
    one = Forecast("m", 5, 5, Interval(5, 5, 5), Interval(2, 1, 3), 4, Interval(1, 1, 1), None, 1, 0, spent_usd=10.0)
    lines = lines_of([one, one])
    assert lines[-2:] == [
        "paid so far  $10.00",
        "in all       $14.00 ($12.00 to $16.00); at most $18.00; --max-usd limits this",
    ]
    assert lines.count("paid so far  $10.00") == 1
    assert lines_of([one]) == one.lines()
