"""PromQL over the service's own metrics, with Grafana's variables in it.

Counts of all pods add up, so estimates are computed from counters here; gauges of a pod are about that pod alone.
`$window` is the window of estimates, chosen on the dashboard.
"""

from __future__ import annotations

from dataclasses import dataclass

from k8s.monitoring.dashboards.panels import Query

HOSTS = 'namespace=~"$namespace", pod=~"$pod"'
SELECTED = f'{HOSTS}, model_version=~"$model_version"'
BAND = ("model_version", "band")
VERSION = ("model_version",)


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % interval."""

    ratio: str
    lower: str
    upper: str

    def queries(self, legend: str, suffix: str = "") -> tuple[Query, ...]:
        """Return the three as queries: the estimate's has the given legend, and `suffix` ends all legends."""
        named = ((legend, self.ratio), ("lower", self.lower), ("upper", self.upper))
        return tuple(Query(expr, f"{name}{suffix}") for name, expr in named)


def series(metric: str, *labels: str, selected: str = SELECTED) -> str:
    """Return a selector of the chosen hosts and versions, with more matchers of `labels`, such as `agree="false"`."""
    return f"{metric}{{{', '.join([selected, *labels])}}}"


def increase(metric: str, *labels: str, by: tuple[str, ...] = BAND) -> str:
    """Return the increase of a counter in the window."""
    return f"sum by ({', '.join(by)}) (increase({series(metric, *labels)}[$window]))"


def rate(metric: str, *labels: str, by: tuple[str, ...] = VERSION, selected: str = SELECTED) -> str:
    """Return the rate per second of a counter, by scrapes as close as possible."""
    return f"sum by ({', '.join(by)}) (rate({series(metric, *labels, selected=selected)}[$__rate_interval]))"


def worst(metric: str, *labels: str, by: tuple[str, ...] = VERSION) -> str:
    """Return the largest value of a gauge over the pods."""
    return f"max by ({', '.join(by)}) ({series(metric, *labels)})"


def total(metric: str) -> str:
    """Return the sum of a metric over the pods of each version."""
    return f"sum by (model_version) ({series(metric)})"


def share(metric: str, *labels: str, by: tuple[str, ...]) -> str:
    """Return the share of each value of the labels `by` in the increase of a counter; `labels` select the parts."""
    return f"{increase(metric, *labels, by=by)} / on (model_version) group_left () ({increase(metric, by=VERSION)} > 0)"


def gauges(metric: str, by: tuple[str, ...] = VERSION) -> Interval:
    """Return an estimate that the service makes itself, of the pod with the largest."""
    return Interval(*(worst(f"{metric}{end}", by=by) for end in ("", "_lower", "_upper")))


def quantile(of: float, metric: str, *labels: str, by: tuple[str, ...] = VERSION, selected: str = SELECTED) -> str:
    """Return a quantile of a histogram."""
    return f"histogram_quantile({of}, {rate(f'{metric}_bucket', *labels, by=(*by, 'le'), selected=selected)})"


def wilson(count: str, trials: str) -> Interval:
    """Return a proportion with Wilson's interval (1927) at 1.96 standard errors."""
    middle = f"({count}) + 1.9208"
    half = f"1.96 * sqrt(clamp_min(({count}) * (1 - ({count}) / ({trials})), 0) + 0.9604)"
    whole = f"(({trials}) + 3.8416)"
    return Interval(
        f"({count}) / ({trials})", f"clamp_min({middle} - {half}, 0) / {whole}", f"({middle} + {half}) / {whole}"
    )


ELIGIBLE = increase("reflux_shadow_eligible_total")
COMPARED = f"({increase('reflux_shadow_compared_total')} > 0)"
_WEIGHT = increase("reflux_shadow_weight_total")
_SQUARES = f"({increase('reflux_shadow_weight_sq_total')} > 0)"
_DISAGREED = increase("reflux_shadow_disagree_weight_total")

TRIALS = f"({_WEIGHT} ^ 2 / {_SQUARES})"
"""Effective comparisons of each band, (Σw)² / Σw²: all of them while the propensity stays."""

COUNT = f"({_DISAGREED} * {_WEIGHT} / {_SQUARES})"
"""Disagreements of each band, on the same scale."""

BANDS = wilson(COUNT, TRIALS)
"""The gap of each band."""

_ANSWERED = f"({increase('reflux_requests_total', by=VERSION)} > 0)"
EXPECTED = f"{increase('reflux_expected_disagreement_total', by=VERSION)} / {_ANSWERED}"
"""The gap that the student's confidence predicts, without the teacher."""


def _stratified(mean: str, variance: str) -> Interval:
    """Return the mean over all requests of what has this `mean` and `variance` of the mean in each band."""
    total = f"sum by (model_version) ({ELIGIBLE} and {COMPARED})"
    ratio = f"sum by (model_version) ({ELIGIBLE} * {mean}) / {total}"
    half = f"1.96 * sqrt(sum by (model_version) ({ELIGIBLE} ^ 2 * {variance})) / {total}"
    return Interval(ratio, f"clamp_min({ratio} - {half}, 0)", f"{ratio} + {half}")


GAP = _stratified(
    f"({_DISAGREED} / ({_WEIGHT} > 0))", f"(({COUNT} + 0.5) * ({TRIALS} - {COUNT} + 0.5) / ({TRIALS} + 1) ^ 3)"
)
"""The gap over all chosen pods: post-stratified by band, normal interval with half a count added on either side."""


def divergence(kind: str) -> Interval:
    """Return the mean divergence of student and teacher, `kl` or `js`, in nats."""
    only = f'kind="{kind}"'
    mean = f"({increase('reflux_shadow_divergence_total', only)} / {COMPARED})"
    square = f"({increase('reflux_shadow_divergence_sq_total', only)} / {COMPARED})"
    return _stratified(mean, f"(clamp_min({square} - {mean} ^ 2, 0) / {COMPARED})")


PODS = Query(f"count by (model_version, name, family, variant, role) (reflux_model_info{{{SELECTED}}})", "pods")
"""What is served, and by how many pods."""
