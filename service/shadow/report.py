"""The body of `GET /gap`, for people and for scripts. A number that is not known yet is null."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from export.bundle.reference import Reference
from service.monitor.cells import SLOT_SECONDS, Floats
from service.monitor.evalues import LOG_PAGE, LOG_TICKET
from service.monitor.gap import GapEstimate, stratified_wilson, with_deferred
from service.monitor.means import confidence_sequence, estimate_mean, normal_quantile
from service.monitor.series import Series, gap_series
from service.monitor.verdict import LOG_CERTAIN
from service.monitor.weights import comparison_weights
from service.monitor.windows import SINCE, Window, start_of
from service.process.parts import Parts
from service.shadow.assessment import Assessment
from service.shadow.comparison import JS_LIMIT, KL_LIMIT
from service.shadow.history import History
from service.shadow.ledger import Ledger
from service.shadow.metrics import band_name
from service.shadow.outcome import OUTCOMES, Outcome
from service.shadow.slots import DAY, HOUR, hour_of
from service.shadow.totals import Totals
from service.shadow.view import View

if TYPE_CHECKING:
    from service.shadow.active import ActiveShadow

LEVEL = 0.95
STEPS_AT_ONCE = 12
"""Steps of a history between which the event loop has its turn."""

PLANNED = 1000
"""Number of comparisons at which the always valid interval is tightest."""


def gap_report(
    assessed: Assessment,
    window: str,
    view: View,
    reference: Reference,
    propensity: tuple[float, ...],
    version: str,
    active: ActiveShadow | None,
    *,
    defers: bool = False,
) -> Parts[dict[str, Any]]:
    """Return, in parts, the live gap of bundle `version` in `window`, with the verdict and its evidence, for JSON.

    The verdict, the evidence and the windows are those of all time, whatever the `window`. Where the bundle `defers`,
    all of it is about the texts that students answered, and one section about those that the teacher did.
    """
    ledger, judgement, found = view.ledger, assessed.judgement, assessed.findings.windows[window]
    start = start_of(window, assessed.now)
    totals = _counted(assessed.history, ledger, start, window)
    yield
    divergence = _divergence(assessed, start, ledger.bands)
    yield
    last = ledger.last_comparison
    return {
        "verdict": str(judgement.verdict),
        "message": judgement.message,
        "cause": None if judgement.cause is None else str(judgement.cause),
        "blind": list(judgement.blind),
        "verdict_since": assessed.verdict_since,
        "window": window,
        "model_version": version,
        "enabled": active is not None,
        "teacher": {
            "name": view.teacher.name,
            "version": view.teacher.version,
            "models": view.record.models.newest() if view.record else [],
        }
        if active and view.teacher
        else None,
        "slo": dataclasses.asdict(assessed.slo),
        **_gap(found, totals, window),
        "deferred": _deferred(found, totals) if defers else None,
        "divergence": divergence,
        "evidence": _evidence(assessed),
        "windows": {name: _window(each) for name, each in assessed.findings.windows.items()},
        "last_comparison_age_seconds": None if last is None else max(assessed.now - last, 0.0),
        "losses": _losses(totals, found),
        "counts": {
            "requests": int(totals.requests.sum()),
            "sampled": int(totals.sampled.sum()),
            "compared": int(totals.compared.sum()),
            "disagreements": int(totals.disagreed.sum()),
        },
        "outcomes": {str(name): int(totals.outcomes[:, column].sum()) for column, name in enumerate(OUTCOMES)},
        "queue": {
            "waiting": view.waiting,
            "in_flight": view.in_flight,
            "oldest_age_seconds": active.oldest_age if active else None,
            "abandoned": view.abandoned,
        },
        "cost": _cost(totals, active),
        "drift": assessed.drift,
        "witness": None,
        "bands": [
            _band(band, totals, reference, ledger.null, propensity[band] if active else 0.0)
            for band in range(ledger.bands)
        ],
        "offline": _offline(reference),
    }


def history_report(history: History, slo: float, now: float, window: str) -> Parts[dict[str, Any]]:
    """Return, in parts, the body of `GET /gap/history`: the gap in steps of a slot, or of an hour from a day on.

    Since deployment means the 8 days of which hours are kept. `history` must not change meanwhile.
    """
    cells = history.cells()
    step = SLOT_SECONDS if window in ("1h", "6h") else HOUR
    start = start_of(window, now)
    if window == SINCE:
        known = cells.slot[cells.slot > now - 8 * DAY]
        start = float(known.min()) if known.size else now
    if step == HOUR:
        start = hour_of(start)
    steps = max(math.ceil((now - start) / step), 1)
    points: list[dict[str, float | None]] = []
    for first in range(0, steps, STEPS_AT_ONCE):
        yield
        found = gap_series(cells, start + step * first, step, min(STEPS_AT_ONCE, steps - first), LEVEL)
        points += _points(found)
    begun = next((at for at, point in enumerate(points) if point["requests"]), steps)
    return {"step_seconds": step, "slo": slo, "points": points[begun:]}


def _points(series: Series) -> list[dict[str, float | None]]:
    """Return the steps for JSON."""
    names = {"ratio": series.gap, "lower": series.lower, "upper": series.upper, "expected": series.expected}
    return [
        {
            "time": float(series.time[at]),
            **{name: None if math.isnan(values[at]) else float(values[at]) for name, values in names.items()},
            "requests": int(series.requests[at]),
            "compared": int(series.compared[at]),
        }
        for at in range(len(series.time))
    ]


def _counted(history: History, ledger: Ledger, start: float, window: str) -> Totals:
    """Return the counts to report: of all answered texts, as long as none could be sampled."""
    totals = history.totals(start)
    if window != SINCE or totals.requests.any():
        return totals
    answered, expected = np.array(ledger.answered, dtype=float), np.array(ledger.expected)
    return dataclasses.replace(totals, requests=answered, expected=expected)


def _gap(window: Window, totals: Totals, name: str) -> dict[str, Any]:
    requests, found = float(totals.requests.sum()), window.estimate
    if found is None:
        interval = {"ratio": None, "lower": None, "upper": None}
        return {
            "gap": {**interval, "stderr": None, "level": None, "always_valid": None, "worst_case": None},
            "agreement": dict(interval),
            "expected_gap": float(totals.expected.sum()) / requests if requests else None,
            "rectifier": None,
            "live_ece": None,
            "coverage": 0.0 if requests else None,
        }
    return {
        "gap": {
            "ratio": found.gap,
            "lower": found.lower,
            "upper": found.upper,
            "stderr": found.stderr,
            "level": found.level,
            "always_valid": _always_valid(found) if name == SINCE else None,
            "worst_case": {"lower": found.worst_case_lower, "upper": found.worst_case_upper},
        },
        "agreement": {"ratio": 1.0 - found.gap, "lower": 1.0 - found.upper, "upper": 1.0 - found.lower},
        "expected_gap": found.expected_gap,
        "rectifier": found.rectifier,
        "live_ece": found.live_ece,
        "coverage": found.coverage,
    }


def _deferred(window: Window, totals: Totals) -> dict[str, Any]:
    """Say how many texts the teacher answered itself, and what the gap is of all answers, these included."""
    requests, deferred = float(totals.requests.sum()), float(totals.deferred.sum())
    everything, found = requests + deferred, window.estimate
    whole = (None, None, None) if found is None else with_deferred(found, deferred)
    return {
        "answered": int(deferred),
        "share": deferred / everything if everything else None,
        "gap": dict(zip(("ratio", "lower", "upper"), whole, strict=True)),
    }


def _always_valid(found: GapEstimate) -> dict[str, float]:
    """Return the interval that may be read at any time, for a window that only grows."""
    half = found.stderr * confidence_sequence(found.compared, PLANNED, found.level)
    return {"lower": max(found.gap - half, 0.0), "upper": min(found.gap + half, 1.0)}


def _window(window: Window) -> dict[str, float | None]:
    found = window.estimate
    return {
        "ratio": found.gap if found else None,
        "lower": found.lower if found else None,
        "upper": found.upper if found else None,
        "expected": window.expected / window.requests if window.requests else None,
        "requests": int(window.requests),
        "compared": int(window.compared),
        "lost_ratio": window.lost_ratio,
        "log_evalue": window.log_evalue,
    }


def _evidence(assessed: Assessment) -> dict[str, float]:
    found, since = assessed.findings, assessed.findings.windows[SINCE]
    return {
        "log_evalue": found.log_evalue,
        "log_evalue_gap": since.log_evalue_gap,
        "log_evalue_bands": since.log_evalue_bands,
        "log_certify": found.log_certify,
        "certify_at": LOG_CERTAIN,
        "ticket_at": LOG_TICKET,
        "page_at": LOG_PAGE,
        "edetector": found.edetector,
        "edetector_at": found.edetector_at,
    }


def _divergence(assessed: Assessment, start: float, bands: int) -> dict[str, dict[str, float | None]]:
    """Return the mean divergences, with the same weights as the gap."""
    chosen = assessed.cells.slot >= start
    part = assessed.cells.where(chosen)
    weights = comparison_weights(part)

    def per_band(values: Floats) -> Floats:
        return part.by_band(weights * values, bands)

    requests, compared = part.by_band(part.requests, bands), per_band(part.compared)
    means = {}
    for name, limit in (("kl", KL_LIMIT), ("js", JS_LIMIT)):
        sums, squares = (per_band(assessed.history.sums(kind)[chosen]) for kind in (name, f"{name}_sq"))
        found = estimate_mean(requests, compared, sums, squares, limit)
        means[name] = {
            "mean": found.mean if found else None,
            "lower": found.lower if found else None,
            "upper": found.upper if found else None,
        }
    return means


def _losses(totals: Totals, window: Window) -> dict[str, Any]:
    counts = totals.outcomes.sum(axis=0).tolist()
    lost = {str(name): int(count) for name, count in zip(OUTCOMES, counts, strict=True)}
    del lost[str(Outcome.COMPLETED)]
    return {"ratio": window.lost_ratio, "by_outcome": {name: count for name, count in lost.items() if count}}


def _cost(totals: Totals, active: ActiveShadow | None) -> dict[str, float | None]:
    compared, cost_usd = float(totals.compared.sum()), float(totals.cost_usd.sum())
    each = cost_usd / compared if compared else None
    budget = active.asking.worker.budget if active and active.asking else None
    return {
        "usd": cost_usd,
        "usd_per_1000_comparisons": None if each is None else 1000 * each,
        "tokens": float(totals.tokens.sum()),
        "budget_usd_per_hour": budget.usd if budget else None,
        "budget_usd_left_now": budget.balance if budget else None,
        "teacher_alone_usd": None if each is None else each * float(totals.requests.sum()),
    }


def _band(band: int, totals: Totals, reference: Reference, ceilings: Floats, propensity: float) -> dict[str, Any]:
    requests, compared = float(totals.requests[band]), float(totals.compared[band])
    everything, rows = float(totals.requests.sum()), float(reference.rows[band])
    return {
        "band": band_name(band),
        "propensity": propensity,
        "requests": int(requests),
        "share": requests / everything if everything else None,
        "expected_ratio": float(totals.expected[band]) / requests if requests else None,
        "sampled": int(totals.sampled[band]),
        "compared": int(compared),
        "disagreements": int(totals.disagreed[band]),
        "ratio": float(totals.disagreed[band]) / compared if compared else None,
        "ceiling": float(ceilings[band]),
        "offline": {
            "share": float(reference.share[band]),
            "rows": int(rows),
            "ratio": float(reference.disagreements[band]) / rows if rows else None,
        },
    }


def _offline(reference: Reference) -> dict[str, float]:
    """Return the gap on the validation split, with Wilson's interval, and the gap that the ceilings tolerate."""
    rows = float(reference.rows.sum())
    whole = np.ones(1), np.array([reference.gap]), np.array([rows])
    lower, upper = stratified_wilson(*whole, normal_quantile(LEVEL))
    return {
        "gap": reference.gap,
        "lower": float(lower),
        "upper": float(upper),
        "rows": int(rows),
        "disagreements": int(reference.disagreements.sum()),
        "tolerated": reference.tolerated,
    }
