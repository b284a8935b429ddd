"""Bodies of `GET /gap`, `/gap/history` and `/gap/disagreements` in every state that a person on call may meet.

They have the shape of a service's answers and numbers that fit together, but none was measured.
"""

from __future__ import annotations

import copy
import math
import time
from typing import Any

STATES = ("nothing", "off", "calm", "watch", "leave", "teacher", "blind")

NOW = time.time()
"""Unix seconds at which the bodies were answered."""

VERSION = "4b1f0c2a9d3e"
CANDIDATE = "9c0de5f1a277"
SLO = 0.105
WINDOWS = ("1h", "6h", "1d", "7d", "since")

_RATIOS: dict[str, tuple[float, float, float, float, str]] = {  # ratio, lower, upper, expected, verdict
    "calm": (0.058, 0.051, 0.066, 0.060, "stay"),
    "watch": (0.081, 0.070, 0.093, 0.078, "watch"),
    "leave": (0.237, 0.214, 0.262, 0.121, "leave"),
    "teacher": (0.131, 0.113, 0.151, 0.061, "leave"),
    "blind": (0.151, 0.139, 0.163, 0.118, "blind"),
}
_MESSAGES = {
    "nothing": "No text has been compared with this teacher yet; wait, and if this lasts, see outcomes and queue.",
    "off": "No text is sent to a teacher; set shadow.enabled and shadow.teacher to measure the gap.",
    "calm": "The gap is below the SLO of 10.5 % at odds of 20 to 1; the student may stay.",
    "watch": "The traffic differs from what the student was trained on; read the newest disagreements, and label some "
    "of these texts.",
    "leave": "The gap is above the SLO of 10.5 % beyond doubt, and unfamiliar inputs are the cause; put the last good "
    "bundle back, then train with the new texts.",
    "teacher": "The gap is above the SLO of 10.5 %, because the teacher answers otherwise than it did; check which "
    "model answers before the student is touched.",
    "blind": "644 of the last 645 samples were lost for want of budget, so the gap is not known; raise "
    "shadow.usd_per_hour or lower shadow.rate.",
}
_SHARES = (0.31, 0.14, 0.11, 0.09, 0.10, 0.08, 0.06, 0.04, 0.03, 0.04)
_EXPECTED = (0.001, 0.003, 0.007, 0.015, 0.034, 0.075, 0.135, 0.21, 0.3, 0.45)
_PAIRS = (("refund", "billing"), ("late delivery", "order status"), ("login", "account"), ("it: printer", "technical"))
_DRIFT = {
    "expected_disagreement": "In the last hour the student is expected to disagree with its teacher on 9.8% of the "
    "requests, on the reference texts on 6.0%.",
    "band": "In the last hour 9.1% of the requests are in confidence band b9, of the reference texts 4.1% (PSI over "
    "all: 0.11 above chance).",
    "class": "In the last day 14.0% of the requests are answered 'billing', of the reference texts 12.8% (PSI over "
    "all: 0.00 above chance).",
    "length": "In the last 6 hours 8.0% of the requests have 41 to 60 tokens, of the reference texts 7.1% (PSI over "
    "all: 0.00 above chance).",
    "unknown": "In the last hour 11.2% of the requests have more than 1.6% unknown tokens, of the reference texts 2%.",
    "embedding": "In the last hour the embeddings are at a squared distance of 0.002 from those of the reference "
    "texts; up to 0.004 is chance.",
}
_TEXTS = (
    "where is the parcel that I ordered on the third, the page says [REDACTED] since Monday",
    "the VPN drops me every ten minutes and the printer on floor 2 is offline",
    "I was charged twice, please send the second payment back to [IBAN]",
    "<b>bold</b> <script>document.title = 'owned'</script> is what the form shows",
    "cannot log in with [EMAIL], it says that my account is locked",
)


def gap_body(state: str, *, variant: str = "stable") -> dict[str, Any]:
    """Return the body of `GET /gap` in one of STATES."""
    if state in ("nothing", "off"):
        return _unknown(state)
    ratio, lower, upper, expected, verdict = _RATIOS[state]
    requests, compared = 42_400.0, 2_860
    cause = {"watch": "input", "leave": "input", "teacher": "teacher"}.get(state)
    log_evalue = {"calm": -2.1, "watch": 7.4, "leave": 41.0, "teacher": 12.3, "blind": -0.4}[state]
    lost = {"blind": 0.998}.get(state, 0.013)
    windows = {
        name: _window(ratio, lower, upper, expected, requests * share, compared * share, lost, log_evalue)
        for name, share in zip(WINDOWS, (0.014, 0.085, 0.31, 0.9, 1.0), strict=True)
    }
    body = _unknown("nothing") | {
        "verdict": verdict,
        "message": _MESSAGES[state],
        "cause": cause,
        "blind": [
            "99.8 % of the samples of the last hour ended without a comparison (limit 20 %): 644 by budget",
            "the last comparison is 2 h old, and 10,400 texts were answered since",
        ]
        if state == "blind"
        else [],
        "gap": _window_gap(ratio, lower, upper, worst=0.19 if state == "blind" else 0.01),
        "agreement": {"ratio": 1 - ratio, "lower": 1 - upper, "upper": 1 - lower},
        "expected_gap": expected,
        "rectifier": ratio - expected,
        "live_ece": abs(ratio - expected) + 0.004,
        "coverage": 0.998,
        "divergence": {
            "kl": {"mean": 0.112, "lower": 0.101, "upper": 0.122},
            "js": {"mean": 0.021, "lower": 0.018, "upper": 0.024},
        },
        "windows": windows,
        "last_comparison_age_seconds": 7260.0 if state == "blind" else 12.3,
        "losses": {"ratio": lost, "by_outcome": {"budget": 644, "timeout": 1} if state == "blind" else {"timeout": 37}},
        "counts": {
            "requests": int(requests),
            "sampled": 3_541 if state == "blind" else 2_901,
            "compared": compared,
            "disagreements": int(ratio * compared),
        },
        "outcomes": {"completed": compared, "budget": 644 if state == "blind" else 0, "timeout": 37, "refused": 4},
        "queue": {"waiting": 0, "in_flight": 1, "oldest_age_seconds": 0.4, "abandoned": {}},
        "cost": {
            "usd": 2.574,
            "usd_per_1000_comparisons": 0.9,
            "tokens": 312_400.0,
            "budget_usd_per_hour": 0.5,
            "budget_usd_left_now": 0.0 if state == "blind" else 0.31,
            "teacher_alone_usd": requests * 0.0009,
        },
        "bands": [_band(band, ratio, expected, requests, compared) for band in range(len(_SHARES))],
        "directions": [
            *(
                _direction(*pair, ratio * share, int(ratio * share * compared))
                for pair, share in zip(_PAIRS, (0.31, 0.22, 0.12, 0.09), strict=True)
            ),
            _direction(None, None, ratio * 0.26, int(ratio * 0.26 * compared)),
        ],
        "classes": [
            {
                "label": label,
                "share": share,
                "ratio": r,
                "lower": 0.8 * r,
                "upper": min(1.25 * r, 1),
                "compared": 90 - 9 * at,
            }
            for at, (label, share, r) in enumerate(
                (
                    ("technical", 0.12, 3.1 * ratio),
                    ("billing", 0.17, 1.8 * ratio),
                    ("account", 0.09, 1.1 * ratio),
                    ("shipping", 0.22, 0.5 * ratio),
                )
            )
        ],
        "decision": {"ratio": 0.62 * ratio, "lower": 0.5 * lower, "upper": 0.7 * upper, "compared": compared},
    }
    names = ("gpt-6-luna-2026-09", "gpt-6-luna-2026-11") if state == "teacher" else ("gpt-6-luna-2026-09",)
    body["teacher"]["models"] = [
        {"model": name, "fingerprint": f"fp_{name[-2:]}", "first": NOW - 9e5, "last": NOW - 60, "calls": compared}
        for name in names
    ]
    body["evidence"] |= {
        "log_evalue": log_evalue,
        "log_evalue_gap": log_evalue - 0.2,
        "log_evalue_bands": log_evalue + 0.1,
        "log_certify": 6.2 if state == "calm" else -8.0,
        "edetector": math.exp(min(max(log_evalue, 0.0), 20.0)),
    }
    body["drift"] = _drift(state, int(requests))
    if variant == "candidate":
        body["model_version"] = CANDIDATE
    return copy.deepcopy(body)


def history_body(state: str, window: str = "7d") -> dict[str, Any]:
    """Return the body of `GET /gap/history`: calm at first, then what the state says."""
    step, count = (
        (300, 12 if window == "1h" else 72) if window in ("1h", "6h") else (3600, 24 if window == "1d" else 168)
    )
    if state in ("nothing", "off"):
        return {"step_seconds": step, "slo": SLO, "points": []}
    ratio, expected = _RATIOS[state][0], _RATIOS[state][3]
    points: list[dict[str, Any]] = []
    for at in range(count):
        late = max(0.0, (at - 0.7 * count) / (0.3 * count))
        sway = 0.008 * math.sin(at * 0.9) + 0.004 * math.sin(at * 2.3)
        middle = max(0.058 + late * (ratio - 0.058) + sway, 0.0)
        seen = not (state == "blind" and late > 0.6)
        points.append(
            {
                "time": NOW - (count - at) * step,
                "ratio": middle if seen else None,
                "lower": max(middle - 0.021, 0.0) if seen else None,
                "upper": middle + 0.026 if seen else None,
                "expected": 0.06 + late * (expected - 0.06) + 0.3 * sway,
                "requests": 250 + int(120 * math.sin(at * 0.26)),
                "compared": 17 if seen else 0,
            }
        )
    return {"step_seconds": step, "slo": SLO, "points": points}


def disagreements_body(state: str) -> dict[str, Any]:
    """Return the body of `GET /gap/disagreements`, one of whose texts is hostile and one is not kept."""
    if state in ("nothing", "off"):
        return {"rows": []}
    rows = []
    for at in range(12):
        teacher, student = _PAIRS[at % len(_PAIRS)]
        rows.append(
            {
                "time": NOW - 40 - 310 * at,
                "text": None if at == 5 else _TEXTS[at % len(_TEXTS)],
                "student": student,
                "student_score": 0.93 - 0.04 * at,
                "teacher": teacher,
                "teacher_score": 0.97 - 0.02 * at,
                "band": at % len(_SHARES),
            }
        )
    return {"rows": rows}


def model_body() -> dict[str, Any]:
    """Return what the console reads of `GET /model`."""
    return {
        "name": "support-desk",
        "version": VERSION,
        "family": "encoder",
        "variant": "int8",
        "max_tokens": 256,
        "labels": ["account", "billing", "login", "order status", "refund", "shipping", "technical"],
        "access": {"keys": False, "network": False, "notice": None},
        "teacher": {"name": "bundle:tickets-teacher", "version": "77aa01"},
    }


def _unknown(state: str) -> dict[str, Any]:
    unknown = {"ratio": None, "lower": None, "upper": None}
    off = state == "off"
    return {
        "verdict": "blind" if off else "watch",
        "message": _MESSAGES[state],
        "cause": None,
        "blind": [_MESSAGES[state]] if off else [],
        "window": "since",
        "verdict_since": NOW - 8_000,
        "model_version": VERSION,
        "enabled": not off,
        "teacher": None if off else {"name": "openai:gpt-6-luna", "version": "77aa01", "models": []},
        "slo": {"ratio": SLO, "source": "bundle"},
        "gap": {
            **unknown,
            "stderr": None,
            "level": None,
            "always_valid": None,
            "worst_case": {"lower": None, "upper": None},
        },
        "agreement": dict(unknown),
        "expected_gap": None,
        "rectifier": None,
        "live_ece": None,
        "coverage": None,
        "divergence": {
            "kl": {"mean": None, "lower": None, "upper": None},
            "js": {"mean": None, "lower": None, "upper": None},
        },
        "evidence": {
            "log_evalue": 0.0,
            "log_evalue_gap": 0.0,
            "log_evalue_bands": 0.0,
            "log_certify": 0.0,
            "certify_at": math.log(20),
            "ticket_at": math.log(1e3),
            "page_at": math.log(1e4),
            "edetector": 0.0,
            "edetector_at": 250_000.0,
        },
        "windows": {
            name: {**unknown, "expected": None, "requests": 0, "compared": 0, "lost_ratio": None, "log_evalue": 0.0}
            for name in WINDOWS
        },
        "last_comparison_age_seconds": None,
        "losses": {"ratio": None, "by_outcome": {}},
        "counts": {"requests": 0, "sampled": 0, "compared": 0, "disagreements": 0},
        "outcomes": {"completed": 0, "budget": 0, "timeout": 0},
        "queue": {"waiting": 0, "in_flight": 0, "oldest_age_seconds": None, "abandoned": {}},
        "cost": {
            "usd": 0.0,
            "usd_per_1000_comparisons": None,
            "tokens": 0.0,
            "budget_usd_per_hour": None,
            "budget_usd_left_now": None,
            "teacher_alone_usd": None,
        },
        "drift": {
            "input": {"status": "off" if off else "waiting", "features": []},
            "teacher": {
                "status": "off" if off else "waiting",
                "anchors": {"asked": 0, "changed": 0, "last": None},
                "noise": {"repeats": 0, "changed": 0, "upper": None},
                "log_evalue": None,
                "message": "",
            },
        },
        "directions": [],
        "classes": [],
        "decision": None,
        "witness": None,
        "bands": [_band(band, 0.0, 0.0, 0.0, 0) for band in range(len(_SHARES))],
        "offline": {"gap": 0.07, "lower": 0.049, "upper": 0.095, "rows": 400, "disagreements": 28, "tolerated": 0.094},
    }


def _window(
    ratio: float,
    lower: float,
    upper: float,
    expected: float,
    requests: float,
    compared: float,
    lost: float,
    log_evalue: float,
) -> dict[str, Any]:
    wider = (2860 / max(compared, 1.0)) ** 0.5
    return {
        "ratio": ratio,
        "lower": max(ratio - (ratio - lower) * wider, 0.0),
        "upper": min(ratio + (upper - ratio) * wider, 1.0),
        "expected": expected,
        "requests": int(requests),
        "compared": int(compared),
        "lost_ratio": lost,
        "log_evalue": log_evalue / wider,
    }


def _window_gap(ratio: float, lower: float, upper: float, *, worst: float) -> dict[str, Any]:
    return {
        "ratio": ratio,
        "lower": lower,
        "upper": upper,
        "stderr": (upper - lower) / 3.92,
        "level": 0.95,
        "always_valid": {"lower": lower - 0.006, "upper": upper + 0.006},
        "worst_case": {"lower": max(ratio - worst, 0.0), "upper": ratio + worst},
    }


def _band(band: int, ratio: float, expected: float, requests: float, compared: float) -> dict[str, Any]:
    share, worse = _SHARES[band], ratio / 0.058
    n = int(compared * (0.5 * share + 0.05))
    live = min(_EXPECTED[band] * worse, 0.9)
    return {
        "band": f"b{band}",
        "propensity": 0.02 + 0.02 * band,
        "requests": int(requests * share),
        "share": share if requests else None,
        "expected_ratio": _EXPECTED[band] * (expected / 0.06) if requests else None,
        "sampled": n + 3 if n else 0,
        "compared": n,
        "disagreements": int(n * live),
        "ratio": live if n else None,
        "ceiling": min(_EXPECTED[band] * 1.4 + 0.02, 1.0),
        "offline": {"share": share, "rows": int(400 * share), "ratio": _EXPECTED[band]},
    }


def _direction(teacher: str | None, student: str | None, ratio: float, count: int) -> dict[str, Any]:
    return {
        "teacher": teacher,
        "student": student,
        "ratio": ratio,
        "lower": 0.8 * ratio,
        "upper": 1.25 * ratio,
        "count": count,
    }


def _drift(state: str, requests: int) -> dict[str, Any]:
    moved = state in ("watch", "leave")
    features = [
        ("expected_disagreement", 5.1, 4.9, moved),
        ("band", 61.0, 38.2, moved),
        ("class", 44.1, 101.9, False),
        ("length", 12.0, 31.2, False),
        ("unknown", 61.7, 31.9, moved),
        ("embedding", 0.002, 0.004, False),
    ]
    teacher = state == "teacher"
    return {
        "input": {
            "status": "drift" if moved else "ok",
            "features": [
                {
                    "feature": name,
                    "statistic": statistic if drifted else min(statistic, 0.6 * threshold),
                    "threshold": threshold,
                    "drift": drifted,
                    "n": requests,
                    "window": "1h",
                    "message": _DRIFT[name],
                }
                for name, statistic, threshold, drifted in features
            ],
        },
        "teacher": {
            "status": "drift" if teacher else "ok",
            "anchors": {"asked": 150, "changed": 9 if teacher else 1, "last": NOW - 5e4},
            "noise": {"repeats": 57, "changed": 1, "upper": 0.062},
            "log_evalue": 10.4 if teacher else -0.8,
            "message": "9 of 150 anchors changed, where the teacher's own noise explains at most 4" if teacher else "",
        },
    }
