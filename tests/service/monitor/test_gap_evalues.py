"""E-values on the whole gap: error control on the boundary, power beyond it, and what refusals can and cannot do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from service.monitor.cells import Cells, Floats
from service.monitor.evalues import LOG_PAGE, LOG_TICKET
from service.monitor.gap_evalues import EXCEED_BETS, KEEP_BETS, LARGEST, log_exceeds, log_keeps
from service.monitor.windows import combined, measure
from tests.support.gap_streams import Stream, boundary, delays, foreign, log_curve, paged, past
from tests.support.gap_worlds import worlds

CERTAIN = math.log(20)
LIMIT = 0.105


def cells_of(**changes: object) -> Cells:
    counts: dict[str, object] = {
        "slot": [300, 300, 600],
        "band": [0, 1, 1],
        "propensity": [0.1, 0.4, 0.5],
        "requests": [100, 20, 10],
        "sampled": [12, 8, 5],
        "lost": [1, 0, 0],
        "agreed": [10, 5, 3],
        "disagreed": [1, 2, 2],
    }
    return Cells.of(**(counts | changes))  # type: ignore[arg-type]


FORESEEN = np.array([0.02, 0.3])


@pytest.mark.parametrize("foreseen", [None, FORESEEN])
def test_by_hand(foreseen: Floats | None) -> None:
    d0, d1 = (0.0, 0.0) if foreseen is None else foreseen.tolist()
    # Of two slots: requests, samples, disagreements, samples that did not agree, propensity, and what was foreseen.
    slots = [[(100, 12, 1, 2, 0.1, d0), (20, 8, 2, 3, 0.4, d1)], [(10, 5, 2, 2, 0.5, d1)]]
    exceeds, keeps = np.ones(len(EXCEED_BETS)), np.ones(len(KEEP_BETS))
    # The second slot has no request of band 0, which counts for its bets as in the first.
    for cells, rates in zip(slots, ([(0.1, d0), (0.4, d1)], [(0.1, d0), (0.5, d1)]), strict=True):
        lowest = min(pi for pi, _ in rates)
        worst = max(d / pi - d for pi, d in rates) + LIMIT
        largest = 1 / (max(d + (1 - d) / pi for pi, d in rates) - LIMIT)
        for requests, sampled, k, against, pi, d in cells:
            agreed, disagreed = d - d / pi, d + (1 - d) / pi
            for at, bet in enumerate(EXCEED_BETS):
                size = min(bet * lowest, LARGEST / worst)
                exceeds[at] *= (1 + size * (disagreed - LIMIT)) ** k * (1 + size * (agreed - LIMIT)) ** (sampled - k)
                exceeds[at] *= (1 + size * (d - LIMIT)) ** (requests - sampled)
            for at, bet in enumerate(KEEP_BETS):
                size = bet * largest
                keeps[at] *= (1 + size * (LIMIT - disagreed)) ** against
                keeps[at] *= (1 + size * (LIMIT - agreed)) ** (sampled - against)
                keeps[at] *= (1 + size * (LIMIT - d)) ** (requests - sampled)
    assert log_exceeds(cells_of(), LIMIT, foreseen) == pytest.approx(math.log(exceeds.mean()))
    assert log_keeps(cells_of(), LIMIT, foreseen) == pytest.approx(math.log(keeps.mean()))


def test_no_counts_are_no_evidence() -> None:
    assert log_exceeds(Cells.zeros(), LIMIT) == log_keeps(Cells.zeros(), LIMIT) == 0.0


def test_failures_of_the_teacher_only_weaken_the_evidence() -> None:
    for missing in ({"lost": [5, 0, 0], "agreed": [6, 5, 3]}, {"agreed": [6, 5, 3]}):
        assert log_keeps(cells_of(**missing), LIMIT) < log_keeps(cells_of(), LIMIT)
        assert log_exceeds(cells_of(**missing), LIMIT) == log_exceeds(cells_of(), LIMIT)
    refused = cells_of(lost=[2, 0, 0], disagreed=[0, 2, 2])
    assert log_exceeds(refused, LIMIT) < log_exceeds(cells_of(), LIMIT)
    assert log_keeps(refused, LIMIT) == log_keeps(cells_of(), LIMIT)


@pytest.mark.parametrize("requests", [0.0, 350.0])
def test_samples_taken_over_without_their_requests_are_no_evidence(requests: float) -> None:
    """As when a new teacher answers what was left pending: samples are the uncertain texts, not the traffic."""
    own = Cells.of(slot=[300], band=[0], propensity=0.1, requests=[900.0], sampled=[90], agreed=[84], disagreed=[6])
    taken = Cells.of(
        slot=[600, 600],
        band=[0, 1],  # the confident band has requests enough, and alone would vouch for the student
        propensity=0.1,
        requests=[900.0, requests],
        sampled=[100, 400],
        agreed=[100, 250],
        disagreed=[0, 150],
    )
    for evidence in (log_exceeds, log_keeps):
        assert evidence(own + taken, 0.08) == pytest.approx(evidence(own, 0.08))


def test_the_evidence_stays_finite() -> None:
    many = {"requests": 1e9, "sampled": 1e9}
    for name in ("agreed", "disagreed"):
        cells = Cells.of(band=[0], propensity=1e-4, **many, **{name: 1e9})
        assert math.isfinite(log_exceeds(cells, LIMIT))
        assert math.isfinite(log_keeps(cells, LIMIT))


@pytest.mark.parametrize("limit", [0.0, 1.0, math.nan])
def test_the_limit_must_be_a_probability(limit: float) -> None:
    with pytest.raises(ValueError, match="limit"):
        log_exceeds(cells_of(), limit)


def test_expectation_is_one_on_the_boundary() -> None:
    stream = boundary(LIMIT)
    for keeps in (False, True):
        values = np.exp(log_curve(stream, LIMIT, runs=20_000, steps=1, seed=1, per_step=20, keeps=keeps)[0])
        assert values.mean() == pytest.approx(1.0, abs=4 * values.std() / math.sqrt(values.size))


@pytest.mark.parametrize("keeps", [False, True])
def test_streams_on_the_boundary_never_reach_a_ticket(keeps: bool) -> None:
    curve, _ = log_curve(boundary(LIMIT), LIMIT, runs=40, steps=400, seed=2, per_step=50, keeps=keeps)
    assert curve.max() < LOG_TICKET
    assert np.mean(curve.max(axis=1) >= CERTAIN) <= 0.05 + 2 * 0.035


@pytest.mark.parametrize("keeps", [False, True])
def test_slots_of_one_request_are_no_evidence_on_the_boundary(keeps: bool) -> None:
    generator, slots = np.random.default_rng(12), 6000
    stream = boundary(LIMIT)
    if keeps:  # wrong where it is sure, and nowhere else
        sure = np.arange(stream.share.size) < 3
        stream = Stream(stream.share, np.where(sure, LIMIT / stream.share[sure].sum(), 0.0))
    found = []
    for _ in range(20):
        band = generator.choice(stream.share.size, slots, p=stream.share)
        sampled = generator.random(slots) < stream.propensity[band]
        disagrees = generator.random(slots) < stream.rate[band]
        cells = Cells.of(
            slot=300.0 * np.arange(1, slots + 1),
            band=band,
            propensity=stream.propensity[band],
            requests=1,
            sampled=sampled,
            agreed=sampled & ~disagrees,
            disagreed=sampled & disagrees,
        )
        found.append((log_keeps if keeps else log_exceeds)(cells, LIMIT, stream.foreseen))
    assert np.mean(np.array(found) >= CERTAIN) <= 0.05 + 2 * 0.05


@pytest.mark.parametrize(("share", "most"), [(0.2, 2500), (0.5, 150), (1.0, 60)])
def test_foreign_texts_page(share: float, most: float) -> None:
    assert np.median(delays(foreign(share), LIMIT, LOG_PAGE, runs=100, seed=3)) <= most


def test_a_calm_student_is_certified_and_one_on_the_boundary_is_not() -> None:
    calm = foreign(0.0)
    assert 0.05 < calm.gap < 0.06
    assert np.median(delays(calm, 0.08, CERTAIN, runs=100, seed=4, keeps=True)) <= 700
    curve, _ = log_curve(boundary(0.08), 0.08, runs=200, steps=60, seed=5, per_step=20, keeps=True)
    assert np.mean(curve.max(axis=1) >= CERTAIN) <= 0.05 + 2 * 0.0155


def test_refused_disagreements_never_certify_a_student_that_must_leave() -> None:
    stream = foreign(0.5)
    curve, _ = log_curve(stream, LIMIT, runs=100, steps=100, seed=6, per_step=20, keeps=True, refusal=0.3)
    assert curve.max() < CERTAIN
    assert np.median(delays(stream, LIMIT, LOG_PAGE, runs=100, seed=7, refusal=0.3)) <= 700


def test_a_silent_drift_below_the_limit_is_no_evidence_against_it() -> None:
    world = worlds()["silent drift"]
    curve, _ = log_curve(Stream(world.share, world.rate), LIMIT, runs=20, steps=50, seed=8, per_step=50)
    assert curve.max() < LOG_TICKET


def allowed(rate: Floats) -> Floats:
    """Return the ceilings of a student whose rates are well known: a quarter above them, half a point at least."""
    return rate + np.maximum(0.005, 0.25 * rate)


def test_a_silent_drift_after_a_long_calm_pages_within_a_thousand_comparisons() -> None:
    calm, drift = worlds()["calibrated"], worlds()["silent drift"]
    phases = [(Stream(calm.share, calm.rate), 20_000), (Stream(drift.share, drift.rate), 2500)]
    history = past(phases, runs=20, per_slot=20, seed=9)
    curve, begun = history.log_evalue(LIMIT, allowed(calm.rate)), 20_000 // 20
    assert curve[:, :begun].max() < LOG_TICKET
    assert np.median(paged(history, curve, LOG_PAGE, after=begun)) <= 1000


def test_windows_on_the_boundary_of_both_limits_never_reach_a_ticket() -> None:
    stream = boundary(LIMIT)
    history = past([(stream, 40_000)], runs=20, per_slot=20, seed=10)
    assert history.log_evalue(LIMIT, np.maximum(stream.rate, 1e-3)).max() < LOG_TICKET


def test_the_running_totals_give_the_evidence_of_the_cells() -> None:
    stream = foreign(0.5)
    history = past([(stream, 600)], runs=1, per_slot=2, seed=11)
    slots = history.requests.shape[1]
    per_slot = [
        np.diff(totals[0], axis=0, prepend=0.0).ravel()
        for totals in (history.requests, history.compared, history.disagreed)
    ]
    requests, compared, disagreed = per_slot
    bands = len(stream.share)
    cells = Cells.of(
        slot=np.repeat(300.0 * np.arange(1, slots + 1), bands),
        band=np.tile(np.arange(bands), slots),
        propensity=np.tile(history.propensity, slots),
        requests=requests,
        sampled=compared,
        agreed=compared - disagreed,
        disagreed=disagreed,
    )
    null = allowed(worlds()["calibrated"].rate)
    found = measure(cells, 300.0 * slots + 10, LIMIT, [(0.0, null)], stream.foreseen)
    assert combined(list(found.values())) == pytest.approx(history.log_evalue(LIMIT, null)[0, -1])
