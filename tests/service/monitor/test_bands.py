"""Propensities: the formula, its guarantees and its refusals."""

from __future__ import annotations

import numpy as np
import pytest

from service.monitor.bands import propensities

SHARE = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
SPREAD = np.array([0.03, 0.1, 0.22, 0.38, 0.48])


def test_propensities_follow_the_formula_and_meet_the_rate() -> None:
    result = propensities(0.02, SHARE, SPREAD)
    pooled = 0.5 * 0.03 + 0.2 * 0.1 + 0.15 * 0.22 + 0.1 * 0.38 + 0.05 * 0.48
    assert result[3] == pytest.approx(0.02 * (0.3 + 0.7 * 0.38 / pooled))
    assert SHARE @ result == pytest.approx(0.02)
    assert np.all(result >= 0.006)  # no weight above 1 / (rate · tau)


def test_tau_moves_between_neyman_and_uniform() -> None:
    neyman = propensities(0.02, SHARE, SPREAD, tau=1e-9)
    assert neyman / neyman[0] == pytest.approx(SPREAD / SPREAD[0], rel=1e-5)
    assert propensities(0.02, SHARE, SPREAD, tau=1.0) == pytest.approx(np.full(5, 0.02))
    assert propensities(0.02, SHARE, np.zeros(5)) == pytest.approx(np.full(5, 0.02))


def test_propensities_stay_probabilities() -> None:
    assert propensities(0.9, SHARE, SPREAD).max() == 1.0
    assert propensities(0.001, SHARE, SPREAD, minimum=0.002).min() == 0.002


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.0}, "rate"),
        ({"rate": 1.1}, "rate"),
        ({"tau": 0.0}, "tau"),
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
