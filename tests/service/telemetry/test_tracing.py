"""Spans: one per request under the client's, one per stage under that; none contains a text."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.app import create_app
from service.errors import StartupError
from service.telemetry import tracing
from service.telemetry.trace import Trace
from service.telemetry.tracing import Tracer
from tests.support.http_server import serving
from tests.support.waiting import until

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
SECRET = "xyzzyplugh"
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def collected(monkeypatch):
    """The exporter that gets the spans instead of a collector."""
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(trace_exporter, "OTLPSpanExporter", lambda: exporter)
    return exporter


@pytest.fixture
def spans_of(running, collected):
    """`await spans_of(ask, **settings)`: the spans that `await ask(client)` leaves, once the service has ended."""

    async def spans_of(ask, **settings):
        async with running(tracing=True, **settings) as client:
            await ask(client)
        return collected.get_finished_spans()

    return spans_of


def posting(body, **headers):
    async def ask(client):
        await client.post("/classify", json=body, headers=headers)

    return ask


def named(spans, name):
    return [span for span in spans if span.name == name]


async def test_a_request_is_a_span_under_the_clients_and_its_stages_are_spans_under_it(spans_of, tiny_bundle):
    ask = posting({"text": "invoice"}, traceparent=SAMPLED, **{"x-request-id": "mine"})
    spans = await spans_of(ask)
    (server,) = named(spans, "POST /classify")
    assert format(server.context.trace_id, "032x") == TRACE
    assert format(server.parent.span_id, "016x") == SPAN
    assert server.kind is SpanKind.SERVER
    assert server.status.status_code is StatusCode.UNSET
    assert dict(server.attributes) == {
        "http.request.method": "POST",
        "http.route": "/classify",
        "http.response.status_code": 200,
        "reflux.request_id": "mine",
        "reflux.model.version": tiny_bundle.manifest.version,
        "reflux.texts": 1,
    }
    stages = [span for span in spans if span is not server]
    assert [span.name for span in stages] == ["queue", "run"]
    for span in stages:
        assert span.parent.span_id == server.context.span_id
        assert span.context.trace_id == server.context.trace_id
        assert server.start_time <= span.start_time <= span.end_time <= server.end_time
    queue, run = stages
    assert queue.end_time <= run.start_time + 1_000  # nanoseconds, of rounding


@pytest.mark.parametrize("target", ["/classify", "/classify?a"], ids=["past ASGI", "by ASGI"])
async def test_a_request_leaves_the_same_spans_whichever_way_it_goes(listening, collected, tiny_bundle, target):
    async with listening(tracing=True) as serving, httpx.AsyncClient(base_url=serving.url) as client:
        for text, status in (("invoice", 200), ("poison", 500)):
            headers = {"traceparent": SAMPLED, "x-request-id": "mine"}
            assert (await client.post(target, json={"text": text}, headers=headers)).status_code == status
    servers = named(collected.get_finished_spans(), "POST /classify")
    assert [format(span.parent.span_id, "016x") for span in servers] == [SPAN, SPAN]
    assert [dict(span.attributes) for span in servers] == [
        {
            "http.request.method": "POST",
            "http.route": "/classify",
            "http.response.status_code": status,
            "reflux.request_id": "mine",
            "reflux.model.version": tiny_bundle.manifest.version,
            "reflux.texts": 1,
            **({"error.type": "500"} if status == 500 else {}),
        }
        for status in (200, 500)
    ]
    for server in servers:
        inside = [span for span in collected.get_finished_spans() if span.parent.span_id == server.context.span_id]
        assert [span.name for span in inside] == ["queue", "run"]
        for span in inside:
            assert server.start_time <= span.start_time <= span.end_time <= server.end_time


async def test_a_client_that_leaves_leaves_a_span(listening, connect, collected, gate):
    async with listening(tracing=True) as serving:
        gate.close()
        leaving = await connect(serving.port)
        leaving.send(b'{"text": "invoice"}')
        await gate.held()
        leaving.close()
        await until(lambda: not any(model.scheduler.open for model in serving.app.state.reflux.models))
        gate.opened.set()
    (server,) = collected.get_finished_spans()
    assert server.attributes["http.response.status_code"] == 499


async def test_there_are_as_many_run_spans_as_runs(running, collected):
    async with running(tracing=True) as client:
        await client.post("/classify", json={"texts": ["invoice", "courier", "crash"] * 5})
        page = (await client.get("/metrics")).text
    runs = float(next(line for line in page.splitlines() if "count{" in line and 'stage="run"' in line).split()[-1])
    spans = collected.get_finished_spans()
    assert len(named(spans, "run")) == len(named(spans, "queue")) == runs


def test_texts_of_one_run_share_its_span():
    trace = Trace("mine", {}, 0.0)
    for _ in range(3):
        trace.stage("run", 1.0, 2.0)
    trace.stage("run", 2.0, 3.0)
    assert list(trace.stages) == [("run", 1.0, 2.0), ("run", 2.0, 3.0)]


@pytest.mark.parametrize("headers", [{}, {"traceparent": "00-xyz"}, {"traceparent": f"00-{'0' * 32}-{SPAN}-01"}])
async def test_without_a_valid_traceparent_a_trace_begins_here(spans_of, headers):
    (server,) = named(await spans_of(posting({"text": "invoice"}, **headers)), "POST /classify")
    assert server.parent is None


async def test_a_trace_that_the_client_does_not_sample_is_not_sampled_here(spans_of):
    assert await spans_of(posting({"text": "invoice"}, traceparent=NOT_SAMPLED)) == ()


async def test_a_fault_of_the_service_is_an_error_span_and_a_refusal_is_not(spans_of):
    async def ask(client):
        await client.post("/classify", json={"text": "poison"})
        await client.post("/classify", json={"text": 1})
        await client.get("/nope")
        await client.request("BREW", "/nope")

    spans = await spans_of(ask)
    statuses = {
        (span.name, span.attributes["http.response.status_code"]): (
            span.status.status_code,
            span.attributes.get("error.type"),
        )
        for span in spans
        if span.kind is SpanKind.SERVER
    }
    assert statuses == {
        ("POST /classify", 500): (StatusCode.ERROR, "500"),
        ("POST /classify", 422): (StatusCode.UNSET, None),
        ("GET", 404): (StatusCode.UNSET, None),
        ("_OTHER", 404): (StatusCode.UNSET, None),
    }
    assert {span.name for span in spans if span.kind is not SpanKind.SERVER} == {"queue", "run"}


async def test_probes_leave_no_span(spans_of):
    async def ask(client):
        for path in ("/livez", "/readyz", "/startupz", "/metrics"):
            await client.get(path)

    assert await spans_of(ask) == ()


async def test_no_span_contains_a_text(spans_of):
    async def ask(client):
        for body in ({"text": f"invoice {SECRET}"}, {"text": f"poison {SECRET}"}, {SECRET: SECRET}, [SECRET]):
            await client.post("/classify", json=body)
        await client.get(f"/{SECRET}?{SECRET}={SECRET}")

    spans = await spans_of(ask)
    assert len([span for span in spans if span.kind is SpanKind.SERVER]) == 5
    assert SECRET not in "".join(span.to_json() for span in spans)


@pytest.mark.parametrize(("variable", "expected"), [(None, "reflux"), ("mine", "mine")])
async def test_the_service_has_a_name_unless_the_environment_gives_another(spans_of, monkeypatch, variable, expected):
    if variable is not None:
        monkeypatch.setenv("OTEL_SERVICE_NAME", variable)
    spans = await spans_of(posting({"text": "invoice"}))
    assert {span.resource.attributes["service.name"] for span in spans} == {expected}


@pytest.mark.parametrize("module", ["service.serve", "service.telemetry.tracing"])
def test_without_the_setting_nothing_of_the_extra_is_imported(module):
    code = f"import {module}, sys; print(*(name for name in sys.modules if name.startswith('opentelemetry')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = ("opentelemetry.sdk", "opentelemetry.exporter")  # FastAPI imports the API, which does nothing by itself
    assert not [name for name in done.stdout.split() if name.startswith(heavy)]


async def test_without_the_setting_there_is_no_tracer(running, collected):
    async with running() as client:
        await client.post("/classify", json={"text": "invoice"}, headers={"traceparent": SAMPLED})
    assert collected.get_finished_spans() == ()


def test_without_the_extra_the_start_is_refused_and_names_it(make_settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(StartupError, match=r"REFLUX_TRACING.*reflux\[otel\].*opentelemetry.sdk.trace"):
        create_app(make_settings(tracing=True))


async def test_a_collector_that_hangs_does_not_block_the_shutdown(collected, monkeypatch, make_settings):
    release, sending = threading.Event(), threading.Event()

    def hang(spans):
        sending.set()
        release.wait()

    monkeypatch.setattr(collected, "export", hang)
    monkeypatch.setattr(tracing, "_FLUSH_SECONDS", 0.05)
    app = create_app(make_settings(tracing=True))
    try:
        async with asyncio.timeout(30), app.router.lifespan_context(app):
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://reflux") as client:
                await client.post("/classify", json={"text": "invoice"})
        assert sending.is_set()
    finally:
        release.set()


@pytest.fixture
async def collector():
    """A collector of OTLP over HTTP: its address, and what it received."""
    received = []

    def receive(request):
        received.append((request.url.path, request.content))
        return httpx.Response(200)

    async with serving(receive) as server:
        yield server.url, received


async def test_a_process_sends_its_spans_to_the_address_in_the_environment(start_process, connect, collector):
    address, received = collector
    quick = {"REFLUX_DRAIN_SECONDS": "0", "REFLUX_IDLE_GRACE_SECONDS": "0"}
    async with start_process(REFLUX_TRACING="true", OTEL_EXPORTER_OTLP_ENDPOINT=address, **quick) as process:
        assert (await (await connect(process.port)).ask({"text": "invoice"}))[0] == 200
        process.terminate()
        assert await process.ended() == 0
    names = []
    for path, body in received:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names += [span.name for scope in resource.scope_spans for span in scope.spans]
    assert sorted(names) == ["POST /classify", "queue", "run"]


async def test_fastapi_makes_no_spans_of_its_own(spans_of, collected):
    # As `opentelemetry-instrument` would: a provider for all of the process.
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(collected))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", provider)

        async def ask(client):
            await client.get("/model")

        assert [span.name for span in await spans_of(ask)] == ["GET /model"]


def test_the_tracer_is_not_the_global_one(make_settings):
    before = trace.get_tracer_provider()
    Tracer()
    assert trace.get_tracer_provider() is before
