"""The body of `GET /gap`, for people and for scripts. A number that is not known yet is null."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from export.bundle.reference import Reference
from service.monitor.evalues import LOG_PAGE, LOG_TICKET, log_exceeds_ceilings
from service.monitor.gap import GapEstimate, estimate
from service.monitor.means import confidence_sequence, estimate_mean
from service.shadow.active import ActiveShadow
from service.shadow.comparison import JS_LIMIT, KL_LIMIT
from service.shadow.history import Floats, Totals
from service.shadow.ledger import Ledger
from service.shadow.metrics import band_name
from service.shadow.outcome import OUTCOMES

ENOUGH = 100
"""With fewer comparisons, a gap is called preliminary."""

COVERED = 0.95
"""With a smaller share of the traffic in bands that have a comparison, a gap is called preliminary."""

PLANNED = 1000
"""Number of comparisons at which the always valid interval is tightest."""


def gap_report(
    ledger: Ledger, reference: Reference, propensity: tuple[float, ...], version: str, active: ActiveShadow | None
) -> dict[str, Any]:
    """Return the live gap of bundle `version` against this teacher, with its evidence and counts, ready for JSON."""
    totals = _counted(ledger)
    cells = ledger.history.cells()
    found = estimate(cells)
    status, message = _status(found, active)
    return {
        "status": status,
        "message": message,
        "model_version": version,
        "teacher": {"name": active.teacher.name, "version": active.teacher.version} if active else None,
        **_gap(found, totals),
        "divergence": {
            "kl": _divergence(totals, totals.kl, totals.kl_sq, KL_LIMIT),
            "js": _divergence(totals, totals.js, totals.js_sq, JS_LIMIT),
        },
        "evidence": {
            "log_evalue": log_exceeds_ceilings(cells, [(0.0, reference.null)]),
            "ticket_at": LOG_TICKET,
            "page_at": LOG_PAGE,
            "edetector": ledger.detector.value,
        },
        "counts": {
            "requests": int(totals.requests.sum()),
            "sampled": int(totals.sampled.sum()),
            "compared": int(totals.compared.sum()),
            "disagreements": int(totals.disagreed.sum()),
        },
        "outcomes": {str(name): int(totals.outcomes[:, column].sum()) for column, name in enumerate(OUTCOMES)},
        "queue": {
            "waiting": ledger.queued,
            "in_flight": sum(ledger.in_flight),
            "oldest_age_seconds": active.oldest_age if active else None,
        },
        "cost": _cost(totals, active),
        "bands": [_band(band, totals, reference, propensity if active else None) for band in range(ledger.bands)],
        "offline": {
            "gap": reference.gap,
            "rows": int(reference.rows.sum()),
            "disagreements": int(reference.disagreements.sum()),
        },
    }


def _counted(ledger: Ledger) -> Totals:
    """Return the counts to report: of all answered texts, as long as none could be sampled."""
    totals = ledger.totals
    if totals.requests.any():
        return totals
    answered, expected = np.array(ledger.answered, dtype=float), np.array(ledger.expected)
    return dataclasses.replace(totals, requests=answered, expected=expected)


def _status(found: GapEstimate | None, active: ActiveShadow | None) -> tuple[str, str]:
    if active is None:
        return "disabled", "No text is sent to a teacher; set shadow.enabled and shadow.teacher to measure the gap."
    if found is None:
        return "waiting", "No comparison with the teacher yet; if this persists, see outcomes and queue."
    if found.compared < ENOUGH or found.coverage < COVERED:
        return "preliminary", (
            f"{found.compared:.0f} comparisons cover {found.coverage:.0%} of the traffic; "
            f"wait for {ENOUGH} that cover {COVERED:.0%} before you decide on this."
        )
    return "ok", f"{found.compared:.0f} comparisons cover {found.coverage:.0%} of the traffic."


def _gap(found: GapEstimate | None, totals: Totals) -> dict[str, Any]:
    requests = float(totals.requests.sum())
    expected = float(totals.expected.sum()) / requests if requests else None
    if found is None:
        interval = {"ratio": None, "lower": None, "upper": None}
        return {
            "gap": {**interval, "stderr": None, "level": None, "always_valid": None, "worst_case": None},
            "agreement": dict(interval),
            "expected_gap": expected,
            "rectifier": None,
            "live_ece": None,
            "coverage": 0.0 if requests else None,
        }
    half = found.stderr * confidence_sequence(found.compared, PLANNED, found.level)
    return {
        "gap": {
            "ratio": found.gap,
            "lower": found.lower,
            "upper": found.upper,
            "stderr": found.stderr,
            "level": found.level,
            "always_valid": {"lower": max(found.gap - half, 0.0), "upper": min(found.gap + half, 1.0)},
            "worst_case": {"lower": found.worst_case_lower, "upper": found.worst_case_upper},
        },
        "agreement": {"ratio": 1.0 - found.gap, "lower": 1.0 - found.upper, "upper": 1.0 - found.lower},
        "expected_gap": found.expected_gap,
        "rectifier": found.rectifier,
        "live_ece": found.live_ece,
        "coverage": found.coverage,
    }


def _divergence(totals: Totals, sums: Floats, squares: Floats, limit: float) -> dict[str, float | None]:
    found = estimate_mean(totals.requests, totals.compared, sums, squares, limit)
    if found is None:
        return {"mean": None, "lower": None, "upper": None}
    return {"mean": found.mean, "lower": found.lower, "upper": found.upper}


def _cost(totals: Totals, active: ActiveShadow | None) -> dict[str, float | None]:
    compared, cost_usd = float(totals.compared.sum()), float(totals.cost_usd.sum())
    return {
        "usd": cost_usd,
        "usd_per_1000_comparisons": 1000 * cost_usd / compared if compared else None,
        "tokens": float(totals.tokens.sum()),
        "budget_usd_per_hour": active.worker.budget.usd_per_hour if active else None,
        "budget_usd_left_now": active.worker.budget.balance if active else None,
    }


def _band(band: int, totals: Totals, reference: Reference, propensity: tuple[float, ...] | None) -> dict[str, Any]:
    requests, compared = float(totals.requests[band]), float(totals.compared[band])
    everything, rows = float(totals.requests.sum()), float(reference.rows[band])
    return {
        "band": band_name(band),
        "propensity": propensity[band] if propensity else 0.0,
        "requests": int(requests),
        "share": requests / everything if everything else None,
        "expected_ratio": float(totals.expected[band]) / requests if requests else None,
        "sampled": int(totals.sampled[band]),
        "compared": int(compared),
        "disagreements": int(totals.disagreed[band]),
        "ratio": float(totals.disagreed[band]) / compared if compared else None,
        "ceiling": float(reference.null[band]),
        "offline": {
            "share": float(reference.share[band]),
            "rows": int(rows),
            "ratio": float(reference.disagreements[band]) / rows if rows else None,
        },
    }
