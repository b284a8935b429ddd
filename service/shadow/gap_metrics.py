"""The metrics of an assessment: the verdict, the SLO, and the gap in every window.

What is not known, such as a gap before the first comparison, has no series: NaN would spoil sums over pods.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from service.monitor.windows import SINCE, Window
from service.shadow.assessment import Assessment
from service.shadow.families import gauge

_VERSION = ("model_version",)


def gap_metrics(assessed: Assessment, version: str) -> Iterator[Metric]:
    """Yield the families of one bundle version."""
    findings = assessed.findings
    since = _values(findings.windows[SINCE])
    for name, text, value in (
        ("verdict", "0 stay, 1 watch, 2 leave, 3 blind.", assessed.judgement.verdict.code),
        ("slo", "The gap that must not be exceeded.", assessed.slo.ratio),
        ("log_certify", "Log e-value for a gap below the SLO; ln 20 certifies the student.", findings.log_certify),
        ("edetector", "Evidence that disagreement rose above its ceilings.", findings.edetector),
        ("edetector_threshold", "The evidence at which the student must leave.", findings.edetector_at),
        ("ratio", "Live gap since this version met this teacher.", since.get("ratio")),
        ("lower", "Lower end of its 95 % interval.", since.get("lower")),
        ("upper", "Upper end of its 95 % interval.", since.get("upper")),
    ):
        samples = [] if value is None else [((version,), float(value))]
        yield gauge(f"reflux_gap_{name}", text, _VERSION, samples)
    for name, text in _PER_WINDOW.items():
        values = ((window, _values(found)) for window, found in findings.windows.items())
        per_window = [((version, window), known[name]) for window, known in values if name in known]
        yield gauge(f"reflux_gap_window_{name}", text, (*_VERSION, "window"), per_window)


_PER_WINDOW = {
    "ratio": "Live gap in a window.",
    "lower": "Lower end of its 95 % interval.",
    "upper": "Upper end of its 95 % interval.",
    "log_evalue": "Log e-value of a window against the SLO and the ceilings of the bands.",
    "compared": "Comparisons in a window.",
}


def _values(window: Window) -> dict[str, float]:
    """Return what is known of a window, by the names of _PER_WINDOW."""
    found = window.estimate
    known = {"log_evalue": window.log_evalue, "compared": window.compared}
    return known if found is None else known | {"ratio": found.gap, "lower": found.lower, "upper": found.upper}
