"""The gates of a canary: queries that say pass, fail or nothing of a candidate, by its own metrics.

They look at the recording rules of one window and judge nothing by themselves: every limit is one of the bundle's.
"""

from __future__ import annotations

from dataclasses import dataclass

from k8s.monitoring.rules.rule import limit, lines

WINDOW = "1h"
"""The window of the gates: a candidate has no longer history while it is a canary."""

SUCCESS = "len(result) == 1 && !isNaN(result[0]) && result[0] < 0"
FAILURE = "len(result) == 1 && !isNaN(result[0]) && result[0] > 0"
"""Both are given to Argo, so that neither no data nor NaN is a pass: what is neither is inconclusive."""


@dataclass(frozen=True)
class Gate:
    """A query whose one value is below 0 for pass, above 0 for fail, and 0 or missing where it does not know."""

    name: str
    query: str


def gates(pods: str) -> list[Gate]:
    """Return the gates of the version that the pods serve whose names match the regular expression `pods`."""
    served = f'and on (model_version) max by (model_version) (reflux_model_info{{pod=~"{pods}"}})'
    return [
        Gate("gap", lines(f"{_gap()}\n{served}")),
        Gate("evidence", lines(f"{_evidence()}\n{served}")),
        *(Gate(what, lines(f"{_burn(what)}\n{served}")) for what in ("availability", "latency")),
    ]


def _gap() -> str:
    """Below its SLO or above it, by the interval; unknown while too few texts are compared, or losses hide the gap."""
    w = f'{{window="{WINDOW}"}}'
    slo = "on (model_version) model:reflux_gap:slo"
    return f"""
(
  sum by (model_version) (model:reflux_gap:lower{w}) > bool {slo}
) - on (model_version) (
  sum by (model_version) (model:reflux_gap:upper{w}) < bool {slo}
)
and on (model_version) sum by (model_version) (model:reflux_shadow_compared:increase{w})
  >= {limit("judged_samples")}
unless on (model_version) model_reason:reflux_gap:blind"""


def _evidence() -> str:
    """No evidence against the student, or evidence that pages."""
    found = "model:reflux_gap:log_evidence"
    return f"""
(
  {found} >= bool {limit("log_page")}
) - on (model_version) (
  {found} < bool {limit("log_ticket")}
)"""


def _burn(what: str) -> str:
    """The error budget is not used up faster than it is given, or so fast that it pages."""
    w = f'{{window="{WINDOW}"}}'
    ratio = "error_ratio" if what == "availability" else "slow_ratio"
    burn = f"sum by (model_version) (model:reflux_{what}:burn{w})"
    failures = f"sum by (model_version) (model:reflux_answers:{ratio}{w} * model:reflux_answers:increase{w})"
    rate = f'on (model_version) max by (model_version) (reflux_burn_rate{{window="{WINDOW}"}})'
    return f"""
(
  {burn} >= bool {rate}
) * on (model_version) (
  {failures} >= bool on (model_version) max by (model_version) (reflux_burn_failures)
) - on (model_version) (
  {burn} <= bool 1
)"""
