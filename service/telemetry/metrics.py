"""The serving metrics: one registry per app for HTTP, and one per model for what it does, each with its version.

Every label set exists at zero before the first request. Shadowing has a registry of its own, from its own room;
`render` makes one page of all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from itertools import product

from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.metrics import disable_created_metrics
from prometheus_client.samples import Sample
from starlette.routing import BaseRoute

from export.bundle.classifier import Prediction
from export.bundle.format import Manifest
from service.telemetry.deferred import Later

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
ROWS = (1, 2, 4, 8, 16, 32, 64)
TOKENS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
STAGES = ("queue", "run")
OUTCOMES = ("ok", "overloaded", "deadline", "failed", "left")
ALLOWED, LIMITED, FORBIDDEN, UNAUTHORISED = "allowed", "limited", "forbidden", "unauthorised"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
PROBES = frozenset(
    {"/livez", "/readyz", "/startupz", "/metrics", "/health", "/ping", "/v2/health/live", "/v2/health/ready"}
)
"""Asked every few seconds by machines: neither counted nor logged, since they would drown what users see."""

_MOST_KEPT = 1024
"""So many amounts are added up in less time than a run of a small graph."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which no rule reads


class Quick(Histogram):
    """A histogram that keeps what it is told and adds it up when it is read, or when it has kept much.

    To add takes a lock, twice for each amount, and there are several per request. It belongs on the event loop.
    """

    def observe(self, amount: float, exemplar: dict[str, str] | None = None, times: int = 1) -> None:
        """Count an amount, once or several times; there are no exemplars."""
        if times == 1:
            self._kept.append(amount)
        else:
            self._kept += [amount] * times
        if len(self._kept) >= _MOST_KEPT:
            self._add_up()

    def _metric_init(self) -> None:
        super()._metric_init()
        self._kept: list[float] = []

    def _child_samples(self) -> Iterable[Sample]:
        self._add_up()
        return super()._child_samples()

    def _add_up(self) -> None:
        kept, self._kept = self._kept, []
        self._sum.set(sum(kept, self._sum.get()))
        for bucket, count in Tally(bisect_left(self._upper_bounds, amount) for amount in kept).items():
            self._buckets[bucket].inc(count)


class QuickCounter(Counter):
    """A counter that always has its labels, and no exemplars."""

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Count so many."""
        self._value.inc(amount)


class Metrics:
    """What is counted of HTTP, whichever model answers, with its labelled children bound once."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.later = Later()
        self.registry.register(self.later)
        ProcessCollector(registry=self.registry)
        self._requests = QuickCounter(
            "reflux_http_requests_total",
            "Requests answered.",
            ["route", "method", "code"],
            registry=self.registry,
        )
        self._durations = Quick(
            "reflux_http_request_duration_seconds",
            "From the end of a request's head to the end of its answer.",
            ["route", "method", "code"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._keys = Counter(
            "reflux_key_requests_total",
            "Requests that need an API key, by its name and what became of them at the door.",
            ["key", "outcome"],
            registry=self.registry,
        )
        self._admissions: dict[tuple[str, str], Counter] = {}
        self._exchanges: dict[tuple[str, str, int], tuple[Counter, Quick]] = {}
        self._exchange(OTHER, "GET", 404)

    def declare_routes(self, routes: Iterable[BaseRoute], *, durations: bool = True) -> None:
        """Create the series of each route, method and status that is documented, at zero.

        Without `durations` only those that count: for many routes of which few are asked, the rest would be most of
        the page.
        """
        for route in routes:
            if isinstance(route, APIRoute) and route.path not in PROBES:
                for method, code in product(route.methods or (), {200, *route.responses}):
                    if durations:
                        self._exchange(route.path, method, int(code))
                    else:
                        self._requests.labels(route.path, method, str(code))

    def declare_keys(self, names: Iterable[str]) -> None:
        """Create the series of each API key, at zero."""
        for name, outcome in [*product(names, (ALLOWED, LIMITED, FORBIDDEN)), ("", UNAUTHORISED)]:
            self._admissions[name, outcome] = self._keys.labels(name, outcome)

    def key_request(self, name: str, outcome: str) -> None:
        """Count one request of a key, by the name of its owner; empty when unauthorised."""
        self._admissions[name, outcome].inc()

    def request(self, route: str | None, method: str, code: int, seconds: float, times: int = 1) -> None:
        """Count a request, or several alike. `route` is the template that matched, None when none did."""
        counter, histogram = self._exchange(route or OTHER, method if method in METHODS else OTHER, code)
        counter.inc(times)
        histogram.observe(seconds, times=times)

    def _exchange(self, route: str, method: str, code: int) -> tuple[Counter, Quick]:
        key = (route, method, code)
        if key not in self._exchanges:
            labels = (route, method, str(code))
            self._exchanges[key] = (self._requests.labels(*labels), self._durations.labels(*labels))
        return self._exchanges[key]


class ModelMetrics:
    """What is counted of one model. Its version is a label of every series; `render` adds it."""

    def __init__(self, registry: CollectorRegistry, manifest: Manifest, variant: str) -> None:
        self.later = Later()
        registry.register(self.later)
        stages = Quick(
            "reflux_inference_stage_seconds",
            "Per text: waiting to be taken; per texts taken at once: tokenising and the graph.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_seconds, self.run_seconds = (stages.labels(stage) for stage in STAGES)
        self._batch_texts = Quick(
            "reflux_batch_texts", "Texts in one run of the graph.", buckets=ROWS, registry=registry
        )
        self._batch_tokens = Quick(
            "reflux_batch_tokens",
            "Tokens that a run pays for, padding included.",
            buckets=TOKENS,
            registry=registry,
        )
        self.inflight = Gauge("reflux_inference_inflight", "Texts admitted and not yet answered.", registry=registry)
        self.queue_depth = Gauge("reflux_queue_depth", "Texts waiting for a thread.", registry=registry)
        answers = QuickCounter(
            "reflux_answers_total", "Requests by what became of them.", ["outcome"], registry=registry
        )
        self._answers = {outcome: answers.labels(outcome) for outcome in OUTCOMES}
        self.answer_seconds = Quick(
            "reflux_answer_seconds", "From admission to the answer, per request.", buckets=SECONDS, registry=registry
        )
        predictions = QuickCounter("reflux_predictions_total", "Texts answered.", ["label"], registry=registry)
        self._labels = [predictions.labels(label) for label in manifest.labels]
        self._tokens = Quick(
            "reflux_input_tokens", "Tokens that the graph read of a text.", buckets=TOKENS, registry=registry
        )
        self._truncated = Counter("reflux_truncated_total", "Texts longer than the graph reads.", registry=registry)
        Info("reflux_model", "The bundle that is served.", registry=registry).info(
            {
                "model_version": manifest.version,
                "name": manifest.name,
                "family": manifest.family,
                "variant": manifest.variant,
                "role": variant,
            }
        )

    def batch(self, texts: int, tokens: int) -> None:
        """Count one run of the graph over so many texts and the tokens that it paid for."""
        self._batch_texts.observe(texts)
        self._batch_tokens.observe(tokens)

    def prediction(self, prediction: Prediction) -> None:
        """Count one answered text."""
        self._labels[prediction.best].inc()
        self._tokens.observe(prediction.tokens)
        if prediction.truncated:
            self._truncated.inc()

    def answer(self, outcome: str, times: int = 1) -> None:
        """Count a request, or several alike; `outcome` is one of OUTCOMES."""
        self._answers[outcome].inc(times)


class _Page:
    """The families of several registries as one, with its version on every series of a model."""

    def __init__(self, app: CollectorRegistry, models: Mapping[str, Iterable[CollectorRegistry]]) -> None:
        self._app = app
        self._models = models

    def collect(self) -> Iterator[Metric]:
        families = {family.name: family for family in self._app.collect()}
        for version, registries in self._models.items():
            for family in (family for registry in registries for family in registry.collect()):
                whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                whole.samples += [
                    sample._replace(labels={"model_version": version, **sample.labels}) for sample in family.samples
                ]
        yield from families.values()


def render(app: CollectorRegistry, models: Mapping[str, Iterable[CollectorRegistry]]) -> bytes:
    """The page of `GET /metrics`; `models` has the registries of each version."""
    return generate_latest(_Page(app, models))
