"""Every series exists before the first request, and counts each request once."""

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from export.bundle.format import Manifest
from service.settings import SECONDS
from service.telemetry.metrics import OUTCOMES, ROWS, TOKENS, Metrics, ModelMetrics
from service.telemetry.series import Counters, Histograms

LABELS = ("billing", "shipping", "account", "technical")


async def scrape(client):
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def key(name, /, **labels):
    return (f"reflux_{name}", *sorted(labels.items()))


def context(name, code, route="/classify", method="POST", **labels):
    return key(f"http_{name}", route=route, method=method, code=str(code), **labels)


@pytest.fixture
def served(tiny_bundle):
    """`served(name, **labels)`: a series of the model that is served."""

    def series(name, /, **labels):
        return key(name, model_version=tiny_bundle.manifest.version, **labels)

    return series


async def test_every_series_exists_at_zero_before_the_first_request(client, served):
    found = await scrape(client)
    expected = [
        *(context("requests_total", code) for code in (200, 400, 413, 415, 422, 429, 500, 503, 504)),
        *(context("request_duration_seconds_count", code) for code in (200, 429, 500)),
        context("requests_total", 200, route="/model", method="GET"),
        context("requests_total", 404, route="other", method="GET"),
        *(served("inference_stage_seconds_count", stage=stage) for stage in ("queue", "run")),
        *(served("predictions_total", label=label) for label in LABELS),
        *(served("answers_total", outcome=outcome) for outcome in ("ok", "overloaded", "deadline", "failed", "left")),
        *map(served, ("inference_inflight", "queue_depth", "input_tokens_count", "truncated_total")),
        *map(served, ("batch_texts_count", "batch_tokens_count", "answer_seconds_count")),
    ]
    assert {name: found.get(name) for name in expected} == dict.fromkeys(expected, 0.0)


async def test_values_not_yet_measured_have_no_series_and_none_is_nan(client):
    page = (await client.get("/metrics")).text
    assert "NaN" not in page
    assert "reflux_gap_ratio{" not in page


async def test_the_model_is_named(client, served):
    found = await scrape(client)
    assert found[served("model_info", name="tiny", family="tiny", variant="fp32", role="stable")] == 1


async def test_requests_and_texts_are_counted_once(client, served):
    before = await scrape(client)
    assert (await client.post("/classify", json={"texts": ["invoice", "courier", "courier"]})).status_code == 200
    assert (await client.post("/classify", json={"text": "invoice " * 100})).status_code == 200
    assert (await client.post("/classify", json={"text": 1})).status_code == 422
    assert (await client.post("/classify", json={"text": "poison"})).status_code == 500
    assert (await client.get("/nope")).status_code == 404
    assert (await client.get("/model")).status_code == 200
    after = await scrape(client)
    grown = {
        name: after[name] - before.get(name, 0)
        for name in after
        if after[name] != before.get(name, 0)
        and name[0].startswith("reflux_")
        and not name[0].endswith(("_sum", "_bucket"))
    }
    expected = {
        context("requests_total", 200): 2,
        context("requests_total", 422): 1,
        context("requests_total", 500): 1,
        context("requests_total", 404, route="other", method="GET"): 1,
        context("requests_total", 200, route="/model", method="GET"): 1,
        served("predictions_total", label="billing"): 2,
        served("predictions_total", label="shipping"): 2,
        served("answers_total", outcome="ok"): 2,
        served("answers_total", outcome="failed"): 1,
        served("answer_seconds_count"): 2,
        served("input_tokens_count"): 4,
        served("truncated_total"): 1,
        served("inference_stage_seconds_count", stage="queue"): 5,
        served("inference_stage_seconds_count", stage="run"): 3,  # a request's texts of one length share a run
        served("batch_texts_count"): 3,
        served("batch_tokens_count"): 3,
    }
    assert {name: grown.get(name) for name in expected} == expected
    assert after[served("batch_texts_sum")] - before[served("batch_texts_sum")] == 5
    assert after[served("batch_tokens_sum")] - before[served("batch_tokens_sum")] == 3 * 2 + 32 + 2
    durations = [value for name, value in grown.items() if name[0] == "reflux_http_request_duration_seconds_count"]
    assert sorted(durations) == [1, 1, 1, 1, 2]


async def test_probes_and_made_up_methods_and_paths_do_not_add_series(client):
    before = set(await scrape(client))
    for path in ("/livez", "/readyz", "/startupz", "/metrics", "/a", "/b"):
        await client.get(path)
    await client.request("BREW", "/classify")
    await client.request("BEER", "/classify")
    added = set(await scrape(client)) - before
    assert {dict(name[1:])["method"] for name in added} == {"other"}
    assert len({dict(name[1:])["code"] for name in added}) == 1


async def test_two_apps_count_apart(running, client):
    async with running() as other:
        assert (await other.post("/classify", json={"text": "invoice"})).status_code == 200
        assert (await scrape(other))[context("requests_total", 200)] == 1
        assert (await scrape(client))[context("requests_total", 200)] == 0


@pytest.mark.parametrize("name", ["reflux_http_requests_created", "reflux_truncated_created"])
async def test_there_are_no_created_series(client, name):
    assert name not in {found[0] for found in await scrape(client)}


@pytest.mark.parametrize("bounds", [SECONDS, ROWS, TOKENS])
@pytest.mark.parametrize("labels", [{}, {"stage": "queue"}])
def test_a_histogram_makes_the_page_that_prometheus_client_makes(bounds, labels):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = Histograms("some", "Of something.", [*labels], buckets=bounds, registry=ours).labels(*labels.values())
    other = Histogram("some", "Of something.", [*labels], buckets=bounds, registry=theirs)
    other = other.labels(*labels.values()) if labels else other
    beside = [math.nextafter(bound, towards) for bound in bounds for towards in (-math.inf, bound, math.inf)]
    pages = [generate_latest(ours)]
    for amount in [-1.0, 0, *beside, 1e9, math.inf]:
        mine.observe(amount)
        other.observe(amount)
        pages.append(generate_latest(ours))
        assert pages[-1] == generate_latest(theirs)
    assert len(set(pages)) == len(pages), "each amount is seen"


@pytest.mark.parametrize("labels", [{}, {"stage": 'a "quoted" one'}])
def test_a_counter_makes_the_page_that_prometheus_client_makes(labels):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = Counters("some_total", "Of something.", [*labels], registry=ours).labels(*labels.values())
    other = Counter("some_total", "Of something.", [*labels], registry=theirs)
    other = other.labels(*labels.values()) if labels else other
    for amount in (0, 1, 2.5, 1e12):
        mine.inc(amount)
        other.inc(amount)
        assert generate_latest(ours) == generate_latest(theirs)


def counted(count):
    """Return the series of HTTP and of a model after `count(http, model)`."""
    registry, http = CollectorRegistry(), Metrics()
    manifest = Manifest(
        name="tiny", family="tiny", labels=("a", "b"), max_tokens=32, variant="fp32", temperature=1.0, files={}
    )
    model = ModelMetrics(registry, manifest, "stable")
    count(http, model)
    page = (generate_latest(http.registry) + generate_latest(registry)).decode()
    return [line for line in page.splitlines() if line.startswith("reflux_")]


@pytest.mark.parametrize(
    "count",
    [
        lambda http, _, **times: http.request("/classify", "POST", 429, 0.125, **times),
        lambda http, _, **times: http.request(None, "BREW", 404, 0.0, **times),
        *(lambda _, model, outcome=outcome, **times: model.answer(outcome, **times) for outcome in OUTCOMES),
        lambda _, model, **times: model.answer_seconds.observe(0.25, **times),
    ],
)
def test_equal_amounts_count_the_same_together_as_one_by_one(count):
    def one_by_one(*metrics):
        for _ in range(3):
            count(*metrics)

    together = counted(lambda *metrics: count(*metrics, times=3))
    assert together == counted(one_by_one)
    assert together != counted(count)
