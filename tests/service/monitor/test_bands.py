"""Propensities: the formula, its guarantees and its refusals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from export.fit_reference import BAND_EDGES
from service.monitor.bands import propensities

Floats = NDArray[np.float64]

SHARE = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
SPREAD = np.array([0.03, 0.1, 0.22, 0.38, 0.48])


def neyman_with_floor(rate: float, low: float) -> Floats:
    """Return the allocation in which the first band alone is at the floor."""
    fixed = low * rate
    return np.concatenate([[fixed], SPREAD[1:] * (rate - SHARE[0] * fixed) / (SHARE[1:] @ SPREAD[1:])])


def test_propensities_follow_the_spread_above_the_floor_and_meet_the_rate() -> None:
    result = propensities(0.02, SHARE, SPREAD)
    assert result == pytest.approx(neyman_with_floor(0.02, 0.46))
    assert SHARE @ result == pytest.approx(0.02)
    assert result.min() == pytest.approx(0.0092)  # no weight above 1 / (rate · floor)


def test_the_floor_moves_between_neyman_and_uniform() -> None:
    neyman = propensities(0.02, SHARE, SPREAD, floor=1e-9)
    assert neyman / neyman[0] == pytest.approx(SPREAD / SPREAD[0])
    assert propensities(0.02, SHARE, SPREAD, floor=1.0) == pytest.approx(np.full(5, 0.02))
    assert propensities(0.02, SHARE, np.zeros(5)) == pytest.approx(np.full(5, 0.02))


def test_propensities_stay_probabilities_and_meet_a_high_rate_all_the_same() -> None:
    high = propensities(0.6, SHARE, SPREAD)
    assert high.max() == 1.0
    assert SHARE @ high == pytest.approx(0.6)
    assert propensities(1.0, SHARE, SPREAD) == pytest.approx(np.ones(5))
    assert propensities(1.0, SHARE, SPREAD * [0, 0, 0, 0, 1]) == pytest.approx(np.ones(5))
    assert propensities(0.001, SHARE, SPREAD, minimum=0.002).min() == 0.002


@dataclass(frozen=True, eq=False)
class World:
    """Traffic over the bands of a bundle: how much of it is in each, and how often the student is wrong there."""

    share: Floats
    rate: Floats

    def error(self, propensity: Floats) -> float:
        """Return the standard error of the gap, in units of that of a uniform sample of as many comparisons.

        Exact for the post-stratified estimator, Σ_b W_b p_b (1 − p_b) / π_b, but for the chance of the bands' counts.
        """
        gap = float(self.share @ self.rate)
        variance = float((self.share * self.rate * (1 - self.rate) / propensity).sum())
        return math.sqrt(variance * float(self.share @ propensity) / (gap * (1 - gap)))


def test_ten_bands_with_a_floor_have_two_thirds_of_the_error_of_a_uniform_sample_and_are_never_much_worse() -> None:
    d = np.clip(np.random.default_rng(1).beta(0.18, 3.4, size=400_000), 1e-4, 0.5)
    band = np.searchsorted(BAND_EDGES, d, side="right")

    def mean(values: Floats) -> Floats:
        return np.asarray(np.bincount(band, weights=values) / np.bincount(band))

    share, expected = np.bincount(band) / d.size, mean(d)
    propensity = propensities(0.02, share, np.sqrt(mean(d * (1 - d))))
    assert World(share, expected).error(propensity) <= 0.65
    overconfident = mean(d * np.interp(d, [0, 0.004, 0.02, 0.1, 0.3], [3, 2.8, 2.35, 1.85, 1.45]))
    assert World(share, overconfident).error(propensity) < 0.68
    for below in (0.001, 0.004, 0.01, 0.02, 0.05):  # 4 % new requests, confident and mostly wrong
        new = np.bincount(band[d < below], minlength=len(share)) / (d < below).sum()
        drifted = 0.96 * share + 0.04 * new
        silent = World(drifted, (0.96 * share * expected + 0.04 * new * 0.9) / drifted)
        assert silent.error(propensity) < 1.09


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.0}, "rate"),
        ({"rate": 1.1}, "rate"),
        ({"floor": 0.0}, "floor"),
        ({"minimum": -0.1}, "minimum"),
        ({"share": SHARE[:4]}, "equal length"),
        ({"share": SHARE * 0.9}, "sum to 1"),
        ({"spread": -SPREAD}, "spread"),
        ({"spread": SPREAD * np.nan}, "spread"),
    ],
)
def test_propensities_refuse(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"rate": 0.02, "share": SHARE, "spread": SPREAD} | change
    with pytest.raises(ValueError, match=message):
        propensities(**arguments)  # type: ignore[arg-type]
