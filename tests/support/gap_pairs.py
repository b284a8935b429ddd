"""Traffic whose true gap is known by direction and by predicted class: `gap_worlds` with classes.

`test_directions` simulates little of it, `benchmarks/gap.py` much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from service.monitor.cells import Cells, Floats
from service.monitor.directions import Pairs, classes, directions, pair_weights
from tests.support.gap_worlds import BANDS, CHANGING, HOUR, Period, sampled_at, worlds

CLASSES = 6
STUDENT = np.array([0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
HARDER = np.array([0.6, 0.8, 1.0, 1.6, 2.5, 4.0])
"""How much more often the teacher disagrees where the student chose each class."""

DAYS = {"a rate that stays": [Period(1.0, 1.0, 0.02)], **CHANGING}
"""Days on which rates, gap and losses stay or change."""


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
    periods: Sequence[Period], runs: int, requests: int = 50_000, seed: int = 5
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
            slot[hour], band, pi[hour, band], student, teacher, compared[hour, band, student, teacher].astype(float)
        )
        yield pairs, cells, there.sum(axis=(0, 1)) / requests


def measured(periods: Sequence[Period], runs: int, seed: int = 5) -> dict[str, tuple[Floats, Floats]]:
    """Return, for the main directions and for each class, the errors of the ratio and whether its interval covers."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for pairs, cells, truth in simulated(periods, runs, seed=seed):
        weights = pair_weights(pairs, cells, cells.slot)
        for one in directions(pairs, weights, most=CLASSES**2):
            if one.student is not None and one.teacher == (one.student + 1) % CLASSES:
                true = truth[one.student, one.teacher]
                found.setdefault(f"to {one.teacher}", []).append((one.ratio - true, one.lower <= true <= one.upper))
        for each in classes(pairs, weights):
            true = 1 - truth[each.student, each.student] / truth[each.student].sum()
            found.setdefault(f"class {each.student}", []).append((each.ratio - true, each.lower <= true <= each.upper))
    return {name: (np.array([e for e, _ in one]), np.array([float(c) for _, c in one])) for name, one in found.items()}
