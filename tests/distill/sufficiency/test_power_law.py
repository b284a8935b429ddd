"""The interval of an extrapolated learning curve has the truth in it as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from distill.sufficiency.power_law import fit

FOLDS, SHARES = 5, np.geomspace(1 / 8, 1, 5)


def measured(generator, floor, scale, exponent, rows):
    """Errors [F, S] of folds whose rows are answered at every size, as a learning curve measures them."""
    sizes = np.round(0.8 * rows * SHARES)
    errors = np.empty((FOLDS, len(sizes)))
    for fold in range(FOLDS):
        count = rows // FOLDS
        # Four rows in five are as hard at every size; the others are got right or wrong by the training's chance.
        hard, chance = generator.random(count), generator.random((len(sizes), count))
        level = np.where(generator.random(count) < 0.8, hard, chance)
        expected = floor + scale * sizes**-exponent
        drawn = expected * (1 + 0.01 * generator.standard_normal(len(sizes)))
        errors[fold] = (level < drawn[:, None]).mean(axis=1)
    return sizes, errors


@pytest.mark.parametrize("rows", [1000, 10_000])
@pytest.mark.parametrize(
    ("now", "floor_share", "exponent"),
    [(0.3, 0.0, 0.3), (0.3, 0.5, 0.6), (0.1, 0.0, 0.5), (0.05, 0.5, 1.0), (0.1, 1.0, 0.4)],
)
def test_the_true_gain_is_in_at_least_nine_of_ten_intervals_and_these_are_no_wider_than_they_need(
    rows, now, floor_share, exponent
):
    generator = np.random.default_rng(0)
    floor = now * floor_share
    scale = (now - floor) * rows**exponent
    true = (now - floor) * (1 - 2**-exponent)
    gains = []
    for _ in range(80):
        gains.append(fit(*measured(generator, floor, scale, exponent, rows)).gain(rows, 2 * rows))
    inside = np.mean([gain.lower <= true <= gain.upper for gain in gains])
    # With a true coverage of 95 %, 71 or fewer of 80 come up less than once in 70 times.
    assert inside >= 0.9
    widths = np.mean([gain.upper - gain.lower for gain in gains])
    assert widths < 0.015 + 0.75 * now * (1 - floor_share)


def test_a_curve_without_noise_is_continued_exactly():
    sizes = 8000 * SHARES
    errors = np.tile(0.04 + 2.0 * sizes**-0.4, (FOLDS, 1))
    law = fit(sizes, errors)
    for size in (10_000, 20_000):
        assert law.error(size).value == pytest.approx(0.04 + 2.0 * size**-0.4, abs=5e-4)
    gain = law.gain(10_000, 20_000)
    assert gain.lower <= 2.0 * (10_000**-0.4 - 20_000**-0.4) <= gain.upper
    assert gain.value == pytest.approx(2.0 * (10_000**-0.4 - 20_000**-0.4), abs=5e-4)


def test_a_curve_that_no_longer_falls_promises_nothing():
    generator = np.random.default_rng(1)
    law = fit(*measured(generator, 0.2, 0.0, 0.5, 20_000))
    gain = law.gain(20_000, 40_000)
    assert gain.lower == 0
    assert gain.upper < 0.005


def test_a_curve_that_rises_is_not_continued_upwards():
    sizes = 8000 * SHARES
    rising = np.tile(np.linspace(0.1, 0.2, 5), (FOLDS, 1)) + 0.002 * np.random.default_rng(2).random((FOLDS, 5))
    gain = fit(sizes, rising).gain(10_000, 20_000)
    assert gain.value == gain.lower == 0


def test_a_curve_that_is_no_power_law_gets_a_wider_interval():
    sizes = 8000 * SHARES
    generator = np.random.default_rng(3)
    noise = 0.001 * generator.standard_normal((FOLDS, 5))
    lawful = 0.05 + 5.0 * sizes**-0.5
    bent = lawful * (1 + 0.1 * np.array([-1, 1, 0, -1, 1]))
    straight, crooked = (fit(sizes, errors + noise).gain(10_000, 20_000) for errors in (lawful, bent))
    assert crooked.upper - crooked.lower > 2 * (straight.upper - straight.lower)
