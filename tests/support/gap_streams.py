"""Streams of comparisons, vectorised: how the evidence on the whole gap grows, in many runs at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.monitor.cells import Floats
from service.monitor.evalues import log_mean_exp
from service.monitor.gap_evalues import exceed_factors, keep_factors
from tests.support.gap_worlds import BANDS, EDGES, sampled_at, worlds

RATE = 0.05


@dataclass(frozen=True, eq=False)
class Stream:
    """Requests by band: their share and their disagreement rate, both of shape [B]."""

    share: Floats
    rate: Floats

    @property
    def gap(self) -> float:
        return float(self.share @ self.rate)


def boundary(limit: float) -> Stream:
    """Return the calibrated student with all its rates raised until its gap is `limit`."""
    world = worlds()["calibrated"]
    return Stream(world.share, world.rate * (limit / world.gap))


def foreign(share: float) -> Stream:
    """Return traffic with a gap of 5.8 %, of which `share` is replaced by texts of which the student knows little.

    Their gap is 42 %, of which its confidence foretells 30 points, as real tickets of another desk have it.
    """
    world = worlds()["calibrated"]
    d = np.clip(np.random.default_rng(3).beta(1.1, 2.05, size=100_000), 1e-4, 0.5)
    band = np.searchsorted(EDGES, d, side="right")
    counts = np.bincount(band, minlength=BANDS)
    theirs, rate = counts / d.size, np.minimum(1.4 * np.bincount(band, d, minlength=BANDS) / np.maximum(counts, 1), 1.0)
    mixed = (1.0 - share) * world.share + share * theirs
    known = boundary(0.058).rate
    return Stream(mixed, ((1.0 - share) * world.share * known + share * theirs * rate) / mixed)


def log_curve(
    stream: Stream,
    limit: float,
    *,
    runs: int,
    steps: int,
    seed: int,
    per_step: int,
    keeps: bool = False,
    refusal: float = 0.0,
) -> tuple[Floats, Floats]:
    """Return the log e-value after each step, and the number of comparisons, both of shape [runs, steps].

    A step has `per_step` comparisons on average. `refusal` is the chance that a disagreement is refused.
    """
    generator, pi = np.random.default_rng(seed), sampled_at(RATE)
    requests = round(per_step / float(stream.share @ pi))
    counted, compared, total = np.zeros((runs, BANDS)), np.zeros((runs, BANDS)), 0
    curve, comparisons = np.empty((runs, steps)), np.empty((runs, steps))
    if_counted, otherwise = (keep_factors if keeps else exceed_factors)(pi, float(pi.min()), limit)
    for step in range(steps):
        sampled = generator.binomial(generator.multinomial(requests, stream.share, size=runs), pi)
        disagreed = generator.binomial(sampled, stream.rate)
        answered = generator.binomial(disagreed, 1.0 - refusal)
        counted += disagreed if keeps else answered
        compared += sampled - disagreed + answered
        total += requests
        # `otherwise` is the same in every band, for the bets are.
        others = np.multiply.outer(total - counted.sum(axis=1), otherwise[:, 0])
        curve[:, step] = log_mean_exp(counted @ if_counted.T + others)
        comparisons[:, step] = compared.sum(axis=1)
    return curve, comparisons


def delays(
    stream: Stream, limit: float, threshold: float, *, runs: int, seed: int, keeps: bool = False, refusal: float = 0.0
) -> Floats:
    """Return the number of comparisons [runs] at which the log e-value reaches `threshold`; inf if never."""
    curve, comparisons = log_curve(
        stream, limit, runs=runs, steps=400, seed=seed, per_step=10, keeps=keeps, refusal=refusal
    )
    reached = curve >= threshold
    first = reached.argmax(axis=1)
    return np.where(reached.any(axis=1), comparisons[np.arange(runs), first], np.inf)
