"""The serving metrics, one registry per app. Every label set exists at zero before the first request.

Shadowing and drift register theirs in the same registry, from their own rooms.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics import disable_created_metrics
from starlette.routing import BaseRoute

from export.bundle import Manifest
from export.runtime import Prediction

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
TOKENS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
STAGES = ("queue", "run", "post")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
PROBES = frozenset({"/livez", "/readyz", "/startupz", "/metrics"})
"""Asked every few seconds by machines: neither counted nor logged, since they would drown what users see."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which no rule reads


class Metrics:
    """Counters, histograms and gauges of one app, with their labelled children bound once."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "reflux_http_requests_total",
            "Requests answered.",
            ["route", "method", "code"],
            registry=self.registry,
        )
        self._durations = Histogram(
            "reflux_http_request_duration_seconds",
            "From the end of a request's head to the end of its answer.",
            ["route", "method", "code"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._exchanges: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._exchange(OTHER, "GET", 404)
        stages = Histogram(
            "reflux_inference_stage_seconds",
            "Per text: waiting for a thread, tokenising and running the graph; per request: making the answer.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue_seconds, self.run_seconds, self.post_seconds = (stages.labels(stage) for stage in STAGES)
        self.inflight = Gauge(
            "reflux_inference_inflight", "Texts admitted and not yet answered.", registry=self.registry
        )
        self.queue_depth = Gauge("reflux_queue_depth", "Texts waiting for a thread.", registry=self.registry)
        self._predictions = Counter(
            "reflux_predictions_total", "Texts answered.", ["model_version", "label"], registry=self.registry
        )
        self._labels: list[Counter] = []
        self._tokens = Histogram(
            "reflux_input_tokens", "Tokens that the graph read of a text.", buckets=TOKENS, registry=self.registry
        )
        self._truncated = Counter(
            "reflux_truncated_total", "Texts longer than the graph reads.", registry=self.registry
        )
        self._model = Info("reflux_model", "The bundle that is served.", registry=self.registry)

    def declare_routes(self, routes: Iterable[BaseRoute]) -> None:
        """Create the series of each route, method and status that is documented, at zero."""
        for route in routes:
            if isinstance(route, APIRoute) and route.path not in PROBES:
                for method, code in product(route.methods or (), {200, *route.responses}):
                    self._exchange(route.path, method, int(code))

    def declare_model(self, manifest: Manifest) -> None:
        """Say which bundle is served and create the series of its labels, at zero."""
        self._model.info(
            {
                "model_version": manifest.version,
                "name": manifest.name,
                "family": manifest.family,
                "variant": manifest.variant,
            }
        )
        self._labels = [self._predictions.labels(manifest.version, label) for label in manifest.labels]

    def request(self, route: str | None, method: str, code: int, seconds: float) -> None:
        """Count one request. `route` is the template that matched, None when none did."""
        counter, histogram = self._exchange(route or OTHER, method if method in METHODS else OTHER, code)
        counter.inc()
        histogram.observe(seconds)

    def prediction(self, label: int, prediction: Prediction) -> None:
        """Count one answered text, by the index of its label."""
        self._labels[label].inc()
        self._tokens.observe(prediction.tokens)
        if prediction.truncated:
            self._truncated.inc()

    def _exchange(self, route: str, method: str, code: int) -> tuple[Counter, Histogram]:
        key = (route, method, code)
        if key not in self._exchanges:
            labels = (route, method, str(code))
            self._exchanges[key] = (self._requests.labels(*labels), self._durations.labels(*labels))
        return self._exchanges[key]
