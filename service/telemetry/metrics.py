"""The serving metrics: one registry per app for HTTP, and one per model for inference.

Every label set exists at zero before the first request. Shadowing has a registry of its own; `render` makes one page of
all of them. Except for gauges they belong on the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product

from fastapi.routing import APIRoute
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from starlette.routing import BaseRoute

from export.bundle.classifier import Prediction
from export.bundle.format import Manifest
from service.process.parts import Parts
from service.settings import SECONDS
from service.telemetry.deferred import Deferred
from service.telemetry.series import Counter, Counters, Histogram, Histograms

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
"""Requested every few seconds by machines: neither counted nor logged, so that they do not hide what users see."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which no alert reads


class Metrics:
    """The metrics of HTTP requests, whichever model answers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.deferred = Deferred()
        self.registry.register(self.deferred)
        ProcessCollector(registry=self.registry)
        self._requests = Counters(
            "reflux_http_requests_total",
            "Requests answered.",
            ["route", "method", "code"],
            registry=self.registry,
        )
        self._durations = Histograms(
            "reflux_http_request_duration_seconds",
            "From the end of a request's head to the end of its answer.",
            ["route", "method", "code"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._keys = Counters(
            "reflux_key_requests_total",
            "Requests that need an API key, by its name and what became of them at the door.",
            ["key", "outcome"],
            registry=self.registry,
        )
        self._admissions: dict[tuple[str, str], Counter] = {}
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._answer(OTHER, "GET", 404)

    def declare_routes(self, routes: Iterable[BaseRoute], *, durations: bool = True) -> None:
        """Create the series of each documented route, method and status at zero.

        Without `durations` create only the counters: the histograms of many routes that are rarely used would be most
        of the page.
        """
        for route in routes:
            if isinstance(route, APIRoute) and route.path not in PROBES:
                for method, code in product(route.methods or (), {200, *route.responses}):
                    if durations:
                        self._answer(route.path, method, int(code))
                    else:
                        self._requests.labels(route.path, method, str(code))

    def declare_keys(self, names: Iterable[str]) -> None:
        """Create the series of each API key at zero."""
        for name, outcome in [*product(names, (ALLOWED, LIMITED, FORBIDDEN)), ("", UNAUTHORISED)]:
            self._admissions[name, outcome] = self._keys.labels(name, outcome)

    def key_request(self, name: str, outcome: str) -> None:
        """Count one request of the API key `name`, which is empty for an unauthorised request."""
        self._admissions[name, outcome].inc()

    def request(self, route: str | None, method: str, code: int, seconds: float, times: int = 1) -> None:
        """Count `times` equal requests. `route` is the path template that matched, None if none did."""
        counter, histogram = self._answer(route or OTHER, method if method in METHODS else OTHER, code)
        counter.inc(times)
        histogram.observe(seconds, times=times)

    def _answer(self, route: str, method: str, code: int) -> tuple[Counter, Histogram]:
        key = (route, method, code)
        if key not in self._answers:
            labels = (route, method, str(code))
            self._answers[key] = (self._requests.labels(*labels), self._durations.labels(*labels))
        return self._answers[key]


class ModelMetrics:
    """The metrics of one model. `render` adds its version to every series as a label."""

    def __init__(self, registry: CollectorRegistry, manifest: Manifest, variant: str) -> None:
        self.deferred = Deferred()
        registry.register(self.deferred)
        steps = Histograms(
            "reflux_inference_stage_seconds",
            "Per text: waiting to be taken; per texts taken at once: tokenising and the graph.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_seconds, self.run_seconds = (steps.labels(step) for step in STAGES)
        self._batch_texts = Histograms(
            "reflux_batch_texts", "Texts in one run of the graph.", buckets=ROWS, registry=registry
        ).labels()
        self._batch_tokens = Histograms(
            "reflux_batch_tokens",
            "Tokens that a run pays for, padding included.",
            buckets=TOKENS,
            registry=registry,
        ).labels()
        self.inflight = Gauge("reflux_inference_inflight", "Texts admitted and not yet answered.", registry=registry)
        self.queue_depth = Gauge("reflux_queue_depth", "Texts waiting for a thread.", registry=registry)
        answers = Counters("reflux_answers_total", "Requests by what became of them.", ["outcome"], registry=registry)
        self._answers = {outcome: answers.labels(outcome) for outcome in OUTCOMES}
        self.answer_seconds = Histograms(
            "reflux_answer_seconds", "From admission to the answer, per request.", buckets=SECONDS, registry=registry
        ).labels()
        predictions = Counters("reflux_predictions_total", "Texts answered.", ["label"], registry=registry)
        self._labels = [predictions.labels(label) for label in manifest.labels]
        self._tokens = Histograms(
            "reflux_input_tokens", "Tokens that the graph read of a text.", buckets=TOKENS, registry=registry
        ).labels()
        truncated = Counters("reflux_truncated_total", "Texts longer than the graph reads.", registry=registry)
        self._truncated = truncated.labels()
        self._stage_answers, self._stage_seconds = _stages(manifest, registry)
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
        """Count one run of the graph over `texts` texts, which paid for `tokens`."""
        self._batch_texts.observe(texts)
        self._batch_tokens.observe(tokens)

    @property
    def answers_by_stage(self) -> dict[str, int]:
        """How many texts each stage of a cascade has answered, and its teacher; empty for other bundles."""
        self.deferred.flush()
        return {name: int(answered.value) for name, answered in self._stage_answers}

    def stage(self, place: int, seconds: float) -> None:
        """Count the time of what was taken at once by the stage at `place`, if the bundle is a cascade."""
        if self._stage_seconds:
            self._stage_seconds[place].inc(seconds)

    def prediction(self, prediction: Prediction) -> None:
        """Count one answered text."""
        self._labels[prediction.best].inc()
        if self._stage_answers:
            self._stage_answers[prediction.stage][1].inc()
        self._tokens.observe(prediction.tokens)
        if prediction.truncated:
            self._truncated.inc()

    def answer(self, outcome: str, times: int = 1) -> None:
        """Count `times` requests with the same `outcome`, one of OUTCOMES."""
        self._answers[outcome].inc(times)


def _stages(manifest: Manifest, registry: CollectorRegistry) -> tuple[list[tuple[str, Counter]], list[Counter]]:
    """Return the name and the answers of all that answers in a cascade, and the seconds of each stage.

    Only a cascade has these metrics.
    """
    if not manifest.stages:
        return [], []
    answered = Counters(
        "reflux_cascade_answers_total", "Texts answered, by the stage that did.", ["stage"], registry=registry
    )
    ran = Counters(
        "reflux_cascade_run_seconds_total", "Tokenising and running the graph, by stage.", ["stage"], registry=registry
    )
    answers = [(name, answered.labels(name)) for name in manifest.answering]
    return answers, [ran.labels(stage.name) for stage in manifest.stages]


class _Family:
    """A collector of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def render(app: CollectorRegistry, models: Mapping[str, Iterable[CollectorRegistry]]) -> Parts[bytes]:
    """Return, in parts, the page of `GET /metrics`; `models` has the registries of each version.

    A model's version is a label of each of its series.
    """
    families = {family.name: family for family in app.collect()}
    yield
    for version, registries in models.items():
        for family in (family for registry in registries for family in registry.collect()):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            whole.samples += [
                sample._replace(labels={"model_version": version, **sample.labels}) for sample in family.samples
            ]
            yield
    page = []
    for family in families.values():
        page.append(generate_latest(_Family(family)))
        yield
    return b"".join(page)
