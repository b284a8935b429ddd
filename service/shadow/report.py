"""The body of `GET /gap`: what the counts say, for people and for scripts. Numbers that cannot be had are null."""

from __future__ import annotations

from typing import Any

from export.bundle.reference import Reference
from service.monitor.evalues import LOG_PAGE, LOG_TICKET, log_evalue
from service.monitor.gap import GapEstimate, confidence_sequence, estimate, estimate_mean
from service.shadow.comparison import JS_LIMIT, KL_LIMIT
from service.shadow.ledger import OUTCOMES, Floats, Ledger, Totals
from service.shadow.metrics import band_name
from service.shadow.running import Running

ENOUGH = 100
"""Comparisons below which a gap is called preliminary."""

COVERED = 0.95
"""Share of the traffic in bands with a comparison, below which a gap is called preliminary."""

PLANNED = 1000
"""Comparisons at which the always valid interval is tightest."""


def gap_report(
    ledger: Ledger, reference: Reference, propensity: tuple[float, ...], version: str, running: Running | None
) -> dict[str, Any]:
    """Return all that is known of the live gap since this bundle `version` met this teacher, ready for JSON."""
    totals = ledger.totals
    found = estimate(totals.counts())
    status, message = _status(found, running)
    return {
        "status": status,
        "message": message,
        "model_version": version,
        "teacher": {"name": running.teacher.name, "version": running.teacher.version} if running else None,
        **_gap(found, totals),
        "divergence": {
            "kl": _divergence(totals, totals.kl, totals.kl_sq, KL_LIMIT),
            "js": _divergence(totals, totals.js, totals.js_sq, JS_LIMIT),
        },
        "evidence": {
            "log_evalue": log_evalue(totals.disagreed, totals.compared, reference.null),
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
            "in_flight": sum(ledger.asked),
            "oldest_age_seconds": running.oldest_age if running else None,
        },
        "cost": _cost(totals, running),
        "bands": [_band(band, totals, reference, propensity if running else None) for band in range(ledger.bands)],
        "offline": {
            "gap": reference.gap,
            "rows": int(reference.rows.sum()),
            "disagreements": int(reference.disagreements.sum()),
        },
    }


def _status(found: GapEstimate | None, running: Running | None) -> tuple[str, str]:
    if running is None:
        return "disabled", "No text is shown to a teacher; set shadow.enabled and shadow.teacher to measure the gap."
    if found is None:
        return "waiting", "No comparison with the teacher yet; see outcomes and queue if this lasts."
    if found.completed < ENOUGH or found.coverage < COVERED:
        return "preliminary", (
            f"{found.completed:.0f} comparisons cover {found.coverage:.0%} of the traffic; "
            f"wait for {ENOUGH} that cover {COVERED:.0%} before deciding on this."
        )
    return "ok", f"{found.completed:.0f} comparisons cover {found.coverage:.0%} of the traffic."


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
    half = found.stderr * confidence_sequence(found.completed, PLANNED, found.level)
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
        "agreement": {"ratio": found.agreement, "lower": found.agreement_lower, "upper": found.agreement_upper},
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


def _cost(totals: Totals, running: Running | None) -> dict[str, float | None]:
    compared, cost_usd = float(totals.compared.sum()), float(totals.cost_usd.sum())
    return {
        "usd": cost_usd,
        "usd_per_1000_comparisons": 1000 * cost_usd / compared if compared else None,
        "tokens": float(totals.tokens.sum()),
        "budget_usd_per_hour": running.worker.budget.usd_per_hour if running else None,
        "budget_usd_left_now": running.worker.budget.balance if running else None,
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
