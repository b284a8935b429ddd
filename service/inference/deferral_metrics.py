"""The metrics of deferring: what became of texts that were left to the teacher, how long that took, what it cost."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from service.shadow.breaker import Breaker
from service.shadow.metrics import SECONDS
from service.shadow.outcome import Outcome
from service.telemetry.series import Counters, Histograms

ANSWERED, DEADLINE, RATE_LIMITED = "answered", "deadline", "rate_limited"
FALLBACKS = (
    *(Outcome.TIMEOUT, Outcome.BREAKER_OPEN, Outcome.BUDGET, Outcome.QUEUE_FULL, Outcome.TEACHER_ERROR),
    *(Outcome.INVALID_ANSWER, Outcome.REFUSED, Outcome.SHUTDOWN),
    *(DEADLINE, RATE_LIMITED),
)
"""Why the last student answers a text that was left to the teacher.

`deadline` is that of the request; `rate_limited` says that the teacher's server asked for a pause."""


class DeferralMetrics:
    """Counts what the teacher of a deferring cascade was asked; `waiting` returns how many texts wait for it."""

    def __init__(self, registry: CollectorRegistry, breaker: Breaker, waiting: Callable[[], float]) -> None:
        text = "Texts left to the teacher, by what became of them; but for `answered`, the last student answered."
        outcomes = Counters("reflux_deferrals_total", text, ["outcome"], registry=registry)
        self._outcomes = {str(outcome): outcomes.labels(outcome) for outcome in (ANSWERED, *FALLBACKS)}
        text = "From leaving a text to the teacher to the answer, whoever gives it."
        self._seconds = Histograms("reflux_deferral_seconds", text, buckets=SECONDS, registry=registry).labels()
        text = "What the teacher's answers to requests cost."
        self._cost = Counters("reflux_deferral_cost_usd_total", text, registry=registry).labels()
        Gauge("reflux_deferral_waiting", "Texts that wait for the teacher.", registry=registry).set_function(waiting)
        state = Gauge("reflux_deferral_breaker_state", "0 closed, 1 half-open, 2 open.", registry=registry)
        state.set_function(lambda: breaker.state)

    def count(self, outcome: str, seconds: float, cost_usd: float = 0.0) -> None:
        """Count the end of one text."""
        self._outcomes[outcome].inc()
        self._seconds.observe(seconds)
        self._cost.inc(cost_usd)
