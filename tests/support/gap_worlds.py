"""Traffic whose true gap is known: a calibrated student, and ways in which it gets worse unnoticed.

`test_gap` and `test_gap_evalues` simulate little of it, `benchmarks/gap.py` much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from service.monitor.bands import propensities
from service.monitor.cells import Cells, Floats

EDGES = (0.001, 0.004, 0.01, 0.02, 0.05, 0.1, 0.17, 0.25, 0.35)
BANDS = len(EDGES) + 1
HOUR = 3600.0

_EVERYONE = np.ones(BANDS)


@dataclass(frozen=True)
class Period:
    """An hour of the day: its share of the requests, the factor on all disagreement rates, the sampling rate, and the
    chance that a sample is lost, as when the budget is spent."""

    share: float
    factor: float
    rate: float
    lost: float = 0.0


@dataclass(frozen=True, eq=False)
class World:
    """The truth about the traffic, per band: share, disagreement rate, and the rate that the student expects."""

    share: Floats
    rate: Floats
    expected: Floats

    @property
    def gap(self) -> float:
        return float(self.share @ self.rate)

    def windows(
        self,
        runs: int,
        seed: int,
        requests: int = 50_000,
        sampling: float = 0.02,
        answered: Floats = _EVERYONE,
        refusal: float = 0.0,
        propensity: Floats | None = None,
    ) -> Iterator[tuple[Cells, float]]:
        """Yield the cells and the true gap of each window.

        `sampling` is the share of requests that is sampled, `answered` [B] the chance that the teacher answers, and
        `refusal` the chance that it hides a disagreement.
        """
        generator = np.random.default_rng(seed)
        pi = sampled_at(sampling) if propensity is None else propensity
        per_band = generator.multinomial(requests, self.share, size=runs)
        wrong = generator.binomial(per_band, self.rate)
        sampled = generator.binomial(per_band, pi)
        hits = generator.hypergeometric(wrong, per_band - wrong, sampled)
        disagreed = generator.binomial(hits, answered * (1.0 - refusal))
        agreed = generator.binomial(sampled - hits, answered)
        for run in range(runs):
            cells = Cells.of(
                band=np.arange(BANDS),
                propensity=pi,
                requests=per_band[run],
                expected=per_band[run] * self.expected,
                sampled=sampled[run],
                lost=sampled[run] - agreed[run] - disagreed[run],
                agreed=agreed[run],
                disagreed=disagreed[run],
            )
            yield cells, float(wrong[run].sum() / requests)

    def days(
        self, periods: Sequence[Period], runs: int, seed: int, requests: int = 50_000
    ) -> Iterator[tuple[Cells, float]]:
        """Yield the cells and the true gap of each run of hours in which rates, gap and losses change."""
        generator = np.random.default_rng(seed)
        pi = np.array([sampled_at(period.rate) for period in periods])
        rates = np.minimum([self.rate * period.factor for period in periods], 1.0)
        for _ in range(runs):
            share = np.array([period.share * self.share for period in periods])
            per_cell = generator.multinomial(requests, share.ravel()).reshape(share.shape)
            wrong = generator.binomial(per_cell, rates)
            sampled = generator.binomial(per_cell, pi)
            hits = generator.hypergeometric(wrong, per_cell - wrong, sampled)
            kept = 1.0 - np.array([[period.lost] for period in periods])
            disagreed, agreed = generator.binomial(hits, kept), generator.binomial(sampled - hits, kept)
            cells = Cells.of(
                slot=np.repeat(HOUR * np.arange(1, len(periods) + 1), BANDS),
                band=np.tile(np.arange(BANDS), len(periods)),
                propensity=pi.ravel(),
                requests=per_cell.ravel(),
                expected=(per_cell * self.expected).ravel(),
                sampled=sampled.ravel(),
                lost=(sampled - agreed - disagreed).ravel(),
                agreed=agreed.ravel(),
                disagreed=disagreed.ravel(),
            )
            yield cells, float(wrong.sum() / requests)


PEAK = [Period(2 / 32, 2.0, 0.02, lost=0.8) if 9 <= hour < 17 else Period(1 / 32, 1.0, 0.02) for hour in range(24)]
CHANGING = {
    "a rate of 2 to 20 % as the gap triples": [Period(0.5, 1.0, 0.02), Period(0.5, 3.0, 0.2)],
    "a rate of 2 to 6 % as the gap triples": [Period(0.5, 1.0, 0.02), Period(0.5, 3.0, 0.06)],
    "a rate of 20 to 2 % as the gap triples": [Period(0.5, 1.0, 0.2), Period(0.5, 3.0, 0.02)],
    "a budget that drops 80 % in busy hours with twice the gap": PEAK,
}
"""Days on which a plain share of disagreements per band is wrong."""


@cache
def _calibrated() -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the expected disagreement of many requests, and their bands."""
    d = np.clip(np.random.default_rng(1).beta(0.18, 3.4, size=400_000), 1e-4, 0.5)
    return d, np.searchsorted(EDGES, d, side="right")


@cache
def worlds() -> dict[str, World]:
    """Return a calibrated student with a gap near 5 %, and two ways in which it gets worse unnoticed."""
    d, band = _calibrated()
    counts = np.bincount(band)
    share, expected = counts / d.size, np.bincount(band, d) / counts
    factor = np.array([3.0, 2.6, 2.1, 1.6, 1.45])[np.searchsorted((0.004, 0.02, 0.1, 0.3), d, side="right")]
    new = np.random.default_rng(2).uniform(1e-4, 0.004, size=100_000)  # new requests, confident and mostly wrong
    added = 0.04 * np.bincount(np.searchsorted(EDGES, new, side="right"), minlength=BANDS) / new.size
    confident = 0.96 * share + added
    return {
        "calibrated": World(share, expected, expected),
        "overconfident": World(share, np.minimum(np.bincount(band, d * factor) / counts, 1.0), expected),
        "silent drift": World(confident, (0.96 * share * expected + 0.9 * added) / confident, expected),
    }


@cache
def sampled_at(rate: float) -> Floats:
    """Return the propensity of every band at a sampling rate, fitted to the calibrated student."""
    d, band = _calibrated()
    counts = np.bincount(band)
    return propensities(rate, counts / d.size, np.sqrt(np.bincount(band, d * (1 - d)) / counts))
