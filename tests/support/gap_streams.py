"""Streams of comparisons, vectorised: how the evidence on the whole gap grows, in many runs at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from service.monitor.cells import Floats
from service.monitor.evalues import component_log_evalues, log_mean_exp
from service.monitor.gap_evalues import exceed_factors, keep_factors
from service.monitor.windows import NAMES, SLOTS, log_weighted
from tests.support.gap_worlds import BANDS, EDGES, sampled_at, worlds

RATE = 0.05


@dataclass(frozen=True, eq=False)
class Stream:
    """Requests by band: their share, disagreement rate, propensity and what was foreseen of them, all [B]."""

    share: Floats
    rate: Floats
    propensity: Floats = field(default_factory=lambda: sampled_at(RATE))
    foreseen: Floats = field(default_factory=lambda: worlds()["calibrated"].expected)

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
    generator, pi = np.random.default_rng(seed), stream.propensity
    requests = round(per_step / float(stream.share @ pi))
    counted, compared, seen, asked = (np.zeros((runs, pi.size)) for _ in range(4))
    curve, comparisons = np.empty((runs, steps)), np.empty((runs, steps))
    factors = keep_factors if keeps else exceed_factors
    slot, band = np.zeros(pi.size, dtype=np.int64), np.arange(pi.size)
    if_counted, if_sampled, otherwise = factors(pi, limit, stream.foreseen, slot, band)
    for step in range(steps):
        drawn = generator.multinomial(requests, stream.share, size=runs)
        sampled = generator.binomial(drawn, pi)
        disagreed = generator.binomial(sampled, stream.rate)
        answered = generator.binomial(disagreed, 1.0 - refusal)
        counted += disagreed if keeps else answered
        compared += sampled - disagreed + answered
        seen += drawn
        asked += sampled
        terms = counted @ if_counted.T + (asked - counted) @ if_sampled.T + (seen - asked) @ otherwise.T
        curve[:, step] = log_mean_exp(terms)
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


@dataclass(frozen=True, eq=False)
class Past:
    """What a service has counted, slot by slot, in many runs: running totals of shape [runs, slots, B]."""

    requests: Floats
    sampled: Floats
    compared: Floats
    disagreed: Floats
    propensity: Floats
    foreseen: Floats

    @property
    def comparisons(self) -> Floats:
        """All comparisons up to each slot, shape [runs, slots]."""
        return np.asarray(self.compared.sum(axis=2))

    def log_evalue(self, limit: float, null: Floats) -> Floats:
        """Return the evidence of the verdict after each slot, shape [runs, slots]: of all windows and both kinds."""
        one = np.zeros(self.propensity.size, dtype=np.int64)
        bands = np.arange(self.propensity.size)
        if_counted, if_sampled, otherwise = exceed_factors(self.propensity, limit, self.foreseen, one, bands)
        windows = []
        for slots in (*SLOTS.values(), None):
            requests, sampled, compared, disagreed = (
                _last(totals, slots) for totals in (self.requests, self.sampled, self.compared, self.disagreed)
            )
            agreed = (sampled - disagreed) @ if_sampled.T  # or refused
            gap = log_mean_exp(disagreed @ if_counted.T + agreed + (requests - sampled) @ otherwise.T)
            ceilings = log_mean_exp(component_log_evalues(disagreed, compared, null))
            windows.append(log_mean_exp(np.stack([gap, ceilings], axis=-1)))
        return log_weighted(np.stack(windows, axis=-1), NAMES)


def past(phases: Sequence[tuple[Stream, int]], *, runs: int, per_slot: float, seed: int, refusal: float = 0.0) -> Past:
    """Return a past of `phases`, each with the number of its comparisons; a slot has `per_slot` on average.

    `refusal` is the chance that a disagreement is refused, and so is no comparison.
    """
    generator, pi = np.random.default_rng(seed), phases[0][0].propensity
    parts: list[Floats] = []
    for stream, comparisons in phases:
        requests = round(per_slot / float(stream.share @ pi))
        size = (runs, math.ceil(comparisons / per_slot))
        drawn = generator.multinomial(requests, stream.share, size=size)
        sampled = generator.binomial(drawn, pi)
        disagreed = generator.binomial(sampled, stream.rate)
        refused = generator.binomial(disagreed, refusal)
        counts = np.stack([drawn, sampled, sampled - refused, disagreed - refused])
        parts.append(counts.astype(np.float64))
    requests_so_far, sampled_so_far, compared_so_far, disagreed_so_far = np.concatenate(parts, axis=2).cumsum(axis=2)
    return Past(requests_so_far, sampled_so_far, compared_so_far, disagreed_so_far, pi, phases[0][0].foreseen)


def paged(history: Past, curve: Floats, threshold: float, after: int = 0) -> Floats:
    """Return the comparisons [runs] from slot `after` until `curve` [runs, slots] reaches `threshold`; inf if never."""
    reached = curve[:, after:] >= threshold
    first = after + reached.argmax(axis=1)
    comparisons = history.comparisons
    begun = comparisons[:, after - 1] if after else 0.0
    return np.where(reached.any(axis=1), comparisons[np.arange(len(curve)), first] - begun, np.inf)


def _last(totals: Floats, slots: int | None) -> Floats:
    """Return the sums over the last `slots` up to each slot, from running totals; over all if it is None."""
    if slots is None or slots >= totals.shape[1]:
        return totals
    return np.concatenate([totals[:, :slots], totals[:, slots:] - totals[:, :-slots]], axis=1)
