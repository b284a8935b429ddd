"""The Prometheus metrics of shadowing: the counts of the ledger, with every label set present from the start.

Gauges whose value is unknown, such as the gap before the first comparison, have no series.

Counters start at zero in each process. If they continued from the outbox instead, counts that a killed process had not
written yet would make them fall, and Prometheus takes a fall for a restart from zero.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from functools import cached_property

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from service.process.parts import Parts
from service.shadow.assessment import Assessment, Assessor
from service.shadow.families import Samples, counter, gauge
from service.shadow.gap_metrics import gap_metrics
from service.shadow.ledger import Ledger
from service.shadow.outcome import OUTCOMES, Outcome
from service.shadow.redaction.kinds import KINDS
from service.shadow.rule_metrics import limits, log_factors, log_likelihood_ratios, window_weights
from service.shadow.teacher_report import teacher_metrics
from service.shadow.view import View

ASKED = (Outcome.COMPLETED, Outcome.TIMEOUT, Outcome.TEACHER_ERROR, Outcome.INVALID_ANSWER, Outcome.REFUSED)
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0)

_BAND = ("model_version", "band")
_PER_BAND = {
    "reflux_shadow_sampled": ("Texts chosen to be shown to the teacher.", "sampled"),
    "reflux_shadow_weight": ("Sum of 1 / propensity over completed comparisons.", "weight"),
    "reflux_shadow_weight_sq": ("Sum of 1 / propensity squared over completed comparisons.", "weight_sq"),
    "reflux_shadow_disagree_weight": ("Sum of 1 / propensity over disagreements.", "disagree_weight"),
}


def band_name(band: int) -> str:
    """Return the label value of a band, `b0` for the most confident."""
    return f"b{band}"


class ShadowMetrics(Collector):
    """A collector that registers itself: of counters of this process (`ledger`), and of gauges of what `view` shows."""

    def __init__(
        self,
        registry: CollectorRegistry,
        ledger: Ledger,
        view: View,
        propensity: tuple[float, ...],
        version: str,
        assessor: Assessor,
    ) -> None:
        self._assessor, self._view = assessor, view
        self._assessed: Assessment | None = None
        self._ledger, self._propensity, self._version = ledger, propensity, version
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

    @cached_property
    def _log_factors(self) -> Metric:
        """The constants of the evidence on the whole gap: hundreds, which no scrape need compute anew."""
        return log_factors(self._version, self._propensity, self._assessor.limit, self._assessor.foreseen)

    def time_teacher(self, outcome: Outcome, seconds: float) -> None:
        """Record the duration of a call to the teacher."""
        self._seconds.labels(outcome).observe(seconds)

    def prepare(self) -> Parts[Assessment]:
        """Assess in parts, for the next time that this is collected, and return the assessment too."""
        self._assessed = assessed = yield from self._assessor.assess_parts()
        return assessed

    def collect(self) -> Iterator[Metric]:
        """Yield all families, with every label set."""
        # At once, because rules add these up: whoever collects may do something else between two families.
        active = self._assessor.active
        record = self._view.record if active else None
        yield from [
            *self._band_counters(),
            *self._outcomes(),
            *self._comparisons(),
            *self._pipeline(),
            *self._teacher(),
            *teacher_metrics(record, active.asking.watch if active and active.asking else None),
        ]
        assessed, self._assessed = self._assessed, None
        yield log_likelihood_ratios(self._version, self._view.ledger.null)
        yield from gap_metrics(assessed or self._assessor.assess(), self._version)
        yield limits(self._version)
        yield window_weights(self._version)
        if self._assessor.active:
            yield self._log_factors

    def _band_counters(self) -> Iterator[Metric]:
        for name, text, values in (
            ("reflux_requests", "Answered texts.", self._ledger.answered),
            (
                "reflux_expected_disagreement",
                "Sum over answered texts of the calibrated probability of disagreeing with the teacher.",
                self._ledger.expected,
            ),
            ("reflux_shadow_eligible", "Answered texts that could be sampled.", self._ledger.eligible),
        ):
            yield counter(name, text, _BAND, self._by_band(values))
        for name, (text, field) in _PER_BAND.items():
            yield counter(name, text, _BAND, self._by_band(getattr(self._ledger.now, field)))
        text = "Sampled texts taken over from an earlier process, or from a shared store; they are not in sampled."
        yield counter("reflux_shadow_resumed", text, _BAND, self._by_band(self._ledger.resumed))
        text = "Sampled texts left to the processes that share a store; the one that asks has them in resumed."
        yield counter("reflux_shadow_handed_over", text, _BAND, self._by_band(self._ledger.handed_over))

    def _outcomes(self) -> Iterator[Metric]:
        samples = (
            self._by_band(self._ledger.now.outcomes[:, column], outcome) for column, outcome in enumerate(OUTCOMES)
        )
        yield counter("reflux_shadow_results", "How sampled texts ended.", (*_BAND, "outcome"), *samples)

    def _comparisons(self) -> Iterator[Metric]:
        now = self._ledger.now
        text = "Completed comparisons of student and teacher."
        samples = self._by_band(now.agreed, "true"), self._by_band(now.disagreed, "false")
        yield counter("reflux_shadow_compared", text, (*_BAND, "agree"), *samples)
        text = "Sum of the divergence of student and teacher, in nats."
        samples = self._by_band(now.kl, "kl"), self._by_band(now.js, "js")
        yield counter("reflux_shadow_divergence", text, (*_BAND, "kind"), *samples)
        text = "Sum of the squared divergence of student and teacher."
        samples = self._by_band(now.kl_sq, "kl"), self._by_band(now.js_sq, "js")
        yield counter("reflux_shadow_divergence_sq", text, (*_BAND, "kind"), *samples)

    def _pipeline(self) -> Iterator[Metric]:
        ledger, active = self._ledger, self._assessor.active
        propensity = self._propensity if active else [0.0] * ledger.bands
        text = "Probability that a request is shown to the teacher."
        yield gauge("reflux_shadow_propensity", text, _BAND, self._by_band(propensity))
        oldest = active.oldest_age if active else None
        breaker = active.asking.worker.breaker.state if active and active.asking else 0
        for name, text, value in (
            ("queue_depth", "Sampled texts that wait, in memory and in the outbox.", ledger.queued),
            ("inflight", "Sampled texts at the teacher.", sum(ledger.in_flight)),
            ("oldest_age_seconds", "Age of the oldest sampled text without an outcome.", oldest or 0.0),
            ("breaker_state", "0 closed, 1 half-open, 2 open.", breaker),
            ("store_pending", "Texts without an outcome in a shared store, of all processes.", self._view.pending),
            (
                "store_abandoned",
                "Texts in a shared store that wait for another version about which no process asks.",
                sum(self._view.abandoned.values()),
            ),
        ):
            yield gauge(f"reflux_shadow_{name}", text, (), [((), value)])
        last = self._view.ledger.last_comparison
        age = [] if last is None else [((), max(time.time() - last, 0.0))]
        yield gauge("reflux_shadow_last_comparison_age_seconds", "Time since the newest comparison.", (), age)
        redactions = [((kind,), ledger.redactions[kind]) for kind in KINDS]
        yield counter("reflux_shadow_redactions", "Placeholders put into texts.", ("kind",), redactions)
        text = "Answered texts that could not be counted."
        yield counter("reflux_shadow_defects", text, (), [((), ledger.defects)])

    def _teacher(self) -> Iterator[Metric]:
        active, now = self._assessor.active, self._ledger.now
        info = InfoMetricFamily("reflux_teacher", "The teacher that answers are compared with.")
        cost, tokens, budget = [], [], []
        if active and active.asking:
            teacher, limit = (active.asking.teacher.name,), active.asking.worker.budget.usd
            cost.append((teacher, float(now.cost_usd.sum())))
            tokens.append((teacher, float(now.tokens.sum())))
            budget.append((teacher, math.inf if limit is None else limit))
            info.add_metric([], {"teacher": active.asking.teacher.name, "fingerprint": active.asking.teacher.version})
        yield counter("reflux_shadow_cost_usd", "What the teacher cost.", ("teacher",), cost)
        yield counter("reflux_shadow_tokens", "Tokens the teacher read.", ("teacher",), tokens)
        text = "What the teacher may cost; +Inf for no limit."
        yield gauge("reflux_shadow_budget_usd_per_hour", text, ("teacher",), budget)
        yield info

    def _by_band(self, values: Iterable[float], *more: str) -> Samples:
        """Yield one sample per band; `more` are the values of the labels after the band."""
        return (((self._version, band_name(band), *more), float(value)) for band, value in enumerate(values))
