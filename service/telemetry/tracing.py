"""OpenTelemetry spans: one per request, and one per stage that its texts went through. They never contain a text.

The times of a request are gathered in a `Trace` while it is answered, and the spans are made from them afterwards.
Without `tracing` none of this runs, and OpenTelemetry is not imported.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from threading import Thread
from typing import TYPE_CHECKING

from service.errors import StartupError
from service.settings import variable
from service.telemetry.metrics import METHODS
from service.telemetry.trace import Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

SERVICE = "reflux"
TRACEPARENT = ("traceparent", "tracestate")

_FLUSH_SECONDS = 5.0


class Tracer:
    """Makes spans and passes them to the exporter that the environment variables `OTEL_...` configure.

    Raises StartupError when the extra `otel` is not installed.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise StartupError(
                f"{variable('tracing')} needs the extra `otel`: `pip install 'reflux[otel]'` ({error.name} is missing)"
            ) from error
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
        self._provider: TracerProvider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("reflux")
        self._propagator = TraceContextTextMapPropagator()
        self._otel = trace

    def record(self, gathered: Trace, method: str, route: str | None, code: int) -> None:
        """Make the spans of a request that ends now."""
        since = time.time_ns() - time.monotonic_ns()

        def at(seconds: float) -> int:
            return since + int(seconds * 1e9)

        known = method if method in METHODS else "_OTHER"
        span = self._tracer.start_span(
            f"{known} {route}" if route else known,
            context=self._propagator.extract(_carrier(gathered.headers)),
            kind=self._otel.SpanKind.SERVER,
            attributes=_attributes(gathered, known, route, code),
            start_time=at(gathered.began),
        )
        if span.is_recording():
            if code >= 500:
                span.set_status(self._otel.StatusCode.ERROR)
            inside = self._otel.set_span_in_context(span)
            for name, began, ended in gathered.stages:
                self._tracer.start_span(name, context=inside, start_time=at(began)).end(at(ended))
        span.end()

    async def close(self) -> None:
        """Send the remaining spans, within a few seconds: a collector that hangs must not block the shutdown."""
        sending = Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, _FLUSH_SECONDS)


def _carrier(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name: headers[name.encode()].decode("latin-1") for name in TRACEPARENT if name.encode() in headers}


def _attributes(gathered: Trace, method: str, route: str | None, code: int) -> dict[str, AttributeValue]:
    """Return attributes named by OpenTelemetry's conventions for HTTP, and our own under `reflux.`."""
    attributes: dict[str, AttributeValue | None] = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": code,
        "error.type": str(code) if code >= 500 else None,
        "reflux.request_id": gathered.request_id,
        "reflux.model.version": gathered.version,
        "reflux.texts": gathered.texts,
    }
    return {name: value for name, value in attributes.items() if value is not None}
