"""The Prometheus metrics of shadowing: the counts of the ledger, with every label set present from the start.

Gauges whose value is unknown, such as the gap before the first comparison, have no series.

Counters start at zero in each process. If they continued from the outbox instead, counts that a killed process had not
written yet would make them fall, and Prometheus takes a fall for a restart from zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from export.bundle.reference import Reference
from service.monitor.evalues import BAND_FACTORS, log_factors
from service.monitor.gap import estimate
from service.shadow.active import ActiveShadow
from service.shadow.ledger import OUTCOMES, Ledger, Outcome
from service.shadow.redaction.redact import KINDS

ASKED = (Outcome.COMPLETED, Outcome.TIMEOUT, Outcome.TEACHER_ERROR, Outcome.INVALID_ANSWER, Outcome.REFUSED)
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0)

_PER_BAND = {
    "reflux_requests": ("Answered texts.", "requests"),
    "reflux_expected_disagreement": ("Sum of the calibrated probability of disagreeing with the teacher.", "expected"),
    "reflux_shadow_sampled": ("Texts chosen to be shown to the teacher.", "sampled"),
    "reflux_shadow_weight": ("Sum of 1 / propensity over completed comparisons.", "weight"),
    "reflux_shadow_weight_sq": ("Sum of 1 / propensity squared over completed comparisons.", "weight_sq"),
    "reflux_shadow_disagree_weight": ("Sum of 1 / propensity over disagreements.", "disagree_weight"),
}


def band_name(band: int) -> str:
    """Return the label value of a band, `b0` for the most confident."""
    return f"b{band}"


class ShadowMetrics(Collector):
    """A collector that registers itself. `active` is set while texts are shadowed."""

    def __init__(
        self,
        registry: CollectorRegistry,
        ledger: Ledger,
        reference: Reference,
        propensity: tuple[float, ...],
        version: str,
    ) -> None:
        self.active: ActiveShadow | None = None
        self._ledger, self._reference, self._propensity, self._version = ledger, reference, propensity, version
        self._seconds = Histogram(
            "reflux_shadow_teacher_seconds",
            "Time the teacher took for one text, all attempts.",
            ["outcome"],
            buckets=SECONDS,
            registry=registry,
        )
        for outcome in ASKED:
            self._seconds.labels(outcome)
        registry.register(self)

    def time_teacher(self, outcome: Outcome, seconds: float) -> None:
        """Record the duration of a call to the teacher."""
        self._seconds.labels(outcome).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield all families, with every label set."""
        yield from self._band_counters()
        yield from self._outcomes()
        yield from self._comparisons()
        yield from self._pipeline()
        yield from self._teacher()
        yield from self._gap()

    def _band_counters(self) -> Iterator[Metric]:
        for name, (text, field) in _PER_BAND.items():
            yield self._counter(name, text, getattr(self._ledger.now, field))
        yield self._counter(
            "reflux_shadow_resumed",
            "Sampled texts taken over from an earlier process; they are not in sampled.",
            np.array(self._ledger.resumed),
        )

    def _outcomes(self) -> Iterator[Metric]:
        results = CounterMetricFamily(
            "reflux_shadow_results", "How sampled texts ended.", labels=["model_version", "band", "outcome"]
        )
        for band in range(self._ledger.bands):
            for column, outcome in enumerate(OUTCOMES):
                count = float(self._ledger.now.outcomes[band, column])
                results.add_metric([self._version, band_name(band), outcome], count)
        yield results

    def _comparisons(self) -> Iterator[Metric]:
        now = self._ledger.now
        compared = CounterMetricFamily(
            "reflux_shadow_compared",
            "Completed comparisons of student and teacher.",
            labels=["model_version", "band", "agree"],
        )
        sums, squares = (
            CounterMetricFamily(name, text, labels=["model_version", "band", "kind"])
            for name, text in (
                ("reflux_shadow_divergence", "Sum of the divergence of student and teacher, in nats."),
                ("reflux_shadow_divergence_sq", "Sum of the squared divergence of student and teacher."),
            )
        )
        for band in range(self._ledger.bands):
            labels = [self._version, band_name(band)]
            compared.add_metric([*labels, "true"], float(now.agreed[band]))
            compared.add_metric([*labels, "false"], float(now.disagreed[band]))
            for kind, total, square in (("kl", now.kl, now.kl_sq), ("js", now.js, now.js_sq)):
                sums.add_metric([*labels, kind], float(total[band]))
                squares.add_metric([*labels, kind], float(square[band]))
        yield from (compared, sums, squares)

    def _pipeline(self) -> Iterator[Metric]:
        ledger, active = self._ledger, self.active
        propensity = GaugeMetricFamily(
            "reflux_shadow_propensity",
            "Probability that a request is shown to the teacher.",
            labels=["model_version", "band"],
        )
        for band, value in enumerate(self._propensity):
            propensity.add_metric([self._version, band_name(band)], value if active else 0.0)
        yield propensity
        yield _gauge(
            "reflux_shadow_queue_depth", "Sampled texts that wait, in memory and in the outbox.", ledger.queued
        )
        yield _gauge("reflux_shadow_inflight", "Sampled texts at the teacher.", sum(ledger.in_flight))
        oldest = active.oldest_age if active else None
        yield _gauge(
            "reflux_shadow_oldest_age_seconds", "Age of the oldest sampled text without an outcome.", oldest or 0.0
        )
        redactions = CounterMetricFamily("reflux_shadow_redactions", "Placeholders put into texts.", labels=["kind"])
        for kind in KINDS:
            redactions.add_metric([kind], ledger.redactions[kind])
        yield redactions
        defects = CounterMetricFamily("reflux_shadow_defects", "Answered texts that could not be counted.")
        defects.add_metric([], ledger.defects)
        yield defects

    def _teacher(self) -> Iterator[Metric]:
        active, now = self.active, self._ledger.now
        state = active.worker.breaker.state if active else 0
        yield _gauge("reflux_shadow_breaker_state", "0 closed, 1 half-open, 2 open.", state)
        cost = CounterMetricFamily("reflux_shadow_cost_usd", "What the teacher cost.", labels=["teacher"])
        tokens = CounterMetricFamily("reflux_shadow_tokens", "Tokens the teacher read.", labels=["teacher"])
        budget = GaugeMetricFamily(
            "reflux_shadow_budget_usd_per_hour", "What the teacher may cost; +Inf for no limit.", labels=["teacher"]
        )
        info = InfoMetricFamily("reflux_teacher", "The teacher that answers are compared with.")
        if active:
            name = active.teacher.name
            limit = active.worker.budget.usd_per_hour
            cost.add_metric([name], float(now.cost_usd.sum()))
            tokens.add_metric([name], float(now.tokens.sum()))
            budget.add_metric([name], math.inf if limit is None else limit)
            info.add_metric([], {"teacher": name, "fingerprint": active.teacher.version})
        yield from (cost, tokens, budget, info)

    def _gap(self) -> Iterator[Metric]:
        yield self._log_likelihood_ratios()
        yield self._versioned(
            "reflux_gap_edetector", "Evidence that disagreement rose above its ceilings.", self._ledger.detector.value
        )
        found = estimate(self._ledger.totals.counts())
        values = (found.gap, found.lower, found.upper) if found else (None,) * 3
        yield self._versioned("reflux_gap_ratio", "Live gap since this version met this teacher.", values[0])
        yield self._versioned("reflux_gap_lower", "Lower end of its 95 % interval.", values[1])
        yield self._versioned("reflux_gap_upper", "Upper end of its 95 % interval.", values[2])

    def _log_likelihood_ratios(self) -> Metric:
        """Return what one comparison adds to the log e-value of each alternative, for alerting rules."""
        family = GaugeMetricFamily(
            "reflux_gap_llr",
            "Log likelihood ratio of one comparison, for an alternative to the ceiling of its band.",
            labels=["model_version", "band", "alt", "agree"],
        )
        bands = self._ledger.bands
        disagree, agree = log_factors(self._reference.null)
        rows = [(f"{factor:g}", position * bands) for position, factor in enumerate(BAND_FACTORS)]
        for band in range(bands):
            for alt, row in [*((alt, first + band) for alt, first in rows), ("spread", len(rows) * bands)]:
                labels = [self._version, band_name(band), alt]
                family.add_metric([*labels, "true"], float(agree[row, band]))
                family.add_metric([*labels, "false"], float(disagree[row, band]))
        return family

    def _counter(self, name: str, text: str, values: npt.NDArray[np.generic]) -> CounterMetricFamily:
        family = CounterMetricFamily(name, text, labels=["model_version", "band"])
        for band, value in enumerate(values):
            family.add_metric([self._version, band_name(band)], float(value))
        return family

    def _versioned(self, name: str, text: str, value: float | None) -> GaugeMetricFamily:
        """Return a gauge of this version; without a value it has no series, for sums over pods would take NaN along."""
        family = GaugeMetricFamily(name, text, labels=["model_version"])
        if value is not None:
            family.add_metric([self._version], value)
        return family


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))
