"""What every protocol shares: the limits on texts, the model that answers, and that each outcome is counted once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import ClientDisconnect

from export.bundle.classifier import Prediction
from service.errors import DeadlineError, InferenceFailedError, InvalidRequestError, NotReadyError, OverloadedError
from service.http.context import RequestContext
from service.inference import dataplane, disconnects
from service.telemetry.metrics import OUTCOMES, ModelMetrics

BEGAN = 1000.0

ENDS = [
    (OverloadedError("full", retry_after=1), "overloaded"),
    (DeadlineError("late"), "deadline"),
    (InferenceFailedError("no"), "failed"),
    (NotReadyError("no"), "failed"),
    (ValueError("a defect"), "failed"),
]


class Model:
    """A model that records the texts it gets, raises `refusal`, and answers by `tell(outcome)` or with `outcome`."""

    def __init__(self, manifest):
        self.manifest, self.decision = manifest, None
        self.registry = CollectorRegistry()
        self.metrics = ModelMetrics(self.registry, manifest, "stable")
        self.scheduler, self.deferral = SimpleNamespace(submit=self._submit), None
        self.shadow = SimpleNamespace(observe=lambda *seen: self.observed.append(seen))
        self.observed: list[Any] = []
        self.asked, self.withdrawn = [], 0
        self.refusal = self.outcome = self.tell = None

    def _submit(self, texts, done, **options):
        self.asked.append((texts, options))
        if self.refusal is not None:
            raise self.refusal
        self.tell = done
        if self.outcome is not None:
            asyncio.get_running_loop().call_soon(done, self.outcome)
        return self._withdraw

    def _withdraw(self):
        self.withdrawn += 1

    def counts(self, name):
        return {
            sample.labels.get("outcome", sample.labels.get("label")): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"reflux_{name}" and sample.value
        }


@pytest.fixture
def model(tiny_bundle):
    return Model(tiny_bundle.manifest)


@pytest.fixture
def models(model):
    """The models of a service, which are `model` alone; it records the variants that were chosen."""
    chosen = []
    return SimpleNamespace(only=None, choose=lambda wanted: chosen.append(wanted) or model, chosen=chosen)


@pytest.fixture
def context(make_settings):
    """`context(headers, **settings)`: a request to a service with these settings, whose client stays."""

    def make(headers=(), **settings):
        return RequestContext(make_settings(**settings), "mine", dict(headers), cast(Any, asyncio.Event().wait), BEGAN)

    return make


def prediction(label, *, tokens=3, truncated=False):
    values = np.eye(4, dtype=np.float32)[label]
    return Prediction(values, values, values, tokens, truncated, label, 1.0)


def submitted(models, context, texts, **options):
    """Submit texts; return what `done` was called with, and what withdraws the request."""
    told = []
    return told, dataplane.submit(models, context, texts, told.append, **options)


async def test_texts_are_answered_then_counted_and_observed_in_order(models, context, model):
    told, withdraw = submitted(models, context(), ["a", "b", "c"])
    predictions = [prediction(1), prediction(3, tokens=32, truncated=True), prediction(1)]
    model.tell(predictions)
    withdraw()
    ((manifest, answered, decision),) = told
    assert (manifest, answered, decision, model.withdrawn) == (model.manifest, predictions, None, 0)
    assert model.observed == []
    assert model.counts("predictions_total") == {"shipping": 2, "technical": 1}
    assert model.counts("truncated_total") == {None: 1}
    assert model.counts("input_tokens_sum") == {None: 38}
    assert model.counts("answers_total") == {"ok": 1}
    assert model.counts("answer_seconds_count") == {None: 1}
    assert model.observed == [*zip("abc", predictions, strict=True)]


async def test_the_awaitable_returns_the_predictions(models, context, model):
    model.outcome = [prediction(1)]
    assert await dataplane.classify(models, context(), ["a"]) == (model.manifest, model.outcome, None)
    assert (model.counts("answers_total"), model.withdrawn) == ({"ok": 1}, 0)


@pytest.mark.parametrize(("outcome", "counted"), ENDS)
@pytest.mark.parametrize("how", ["refused", "told", "awaited"])
async def test_an_error_is_passed_on_and_counted_once(models, context, model, how, outcome, counted):
    if how == "told":
        told, withdraw = submitted(models, context(), ["a"])
        model.tell(outcome)
        withdraw()
        assert told == [outcome]
    else:
        setattr(model, "refusal" if how == "refused" else "outcome", outcome)
        with pytest.raises(type(outcome)):
            await dataplane.classify(models, context(), ["a"])
    assert counted in OUTCOMES
    assert model.counts("answers_total") == {counted: 1}
    assert model.counts("predictions_total") == model.counts("answer_seconds_count") == {}
    assert (model.observed, model.withdrawn) == ([], 0)


@pytest.mark.parametrize("how", ["withdrawn", "cancelled", "left"])
async def test_a_client_that_leaves_is_counted_once_and_its_texts_are_withdrawn(
    models, context, model, monkeypatch, how
):
    monkeypatch.setattr(disconnects, "_WATCH_SECONDS", 0.0)
    asked = context()
    if how == "withdrawn":
        told, withdraw = submitted(models, asked, ["a"])
        withdraw()
        withdraw()
        assert told == []
    else:
        request = asyncio.create_task(dataplane.classify(models, asked, ["a"]))
        await asyncio.sleep(0)
        if how == "left":
            asked.receive = lambda: asyncio.sleep(0, {"type": "http.disconnect"})
        else:
            request.cancel()
        with pytest.raises(ClientDisconnect if how == "left" else asyncio.CancelledError):
            await request
    assert (model.withdrawn, model.observed) == (1, [])
    assert model.counts("answers_total") == {"left": 1}


async def test_the_scheduler_gets_the_earliest_deadline(models, context, model):
    model.outcome = [prediction(0)]
    asked = context([(b"x-request-timeout-ms", b"2000")])
    for given in ({}, {"timeout_seconds": 0.5}):
        await dataplane.classify(models, asked, ["a"], **cast(Any, given))
    assert [options["deadline"] for _, options in model.asked] == [BEGAN + 2, BEGAN + 0.5]


async def test_the_variant_of_the_protocol_comes_before_that_of_the_header(models, context, model):
    model.outcome = [prediction(0)]
    asked = context([(b"x-reflux-variant", b"candidate")])
    for given in ({}, {"variant": "stable"}):
        await dataplane.classify(models, asked, ["a"], **cast(Any, given))
    assert models.chosen == ["candidate", "stable"]


@pytest.mark.parametrize(
    ("texts", "name", "message"),
    [
        (["a"] * 4, "texts", "texts: at most 3 per request, got 4"),
        (["a", "12345678"], "texts", "texts[1]: at most 7 characters, got 8"),
        (["a", "12345678"], "instances", "instances[1]: at most 7 characters, got 8"),
        (["12345678"], "text", "text: at most 7 characters, got 8"),
    ],
)
def test_a_limit_that_is_exceeded_is_named_and_nothing_is_run(models, context, model, texts, name, message):
    with pytest.raises(InvalidRequestError) as refused:
        submitted(models, context(max_texts=3, max_characters=7), texts, name=name)
    assert str(refused.value) == message
    assert (model.asked, model.counts("answers_total")) == ([], {})


def test_texts_just_within_the_limits_are_run(models, context, model):
    submitted(models, context(max_texts=3, max_characters=7), ["1234567"] * 3)
    assert len(model.asked) == 1


def test_a_deadline_that_does_not_fit_is_refused_before_anything_is_run(models, context, model):
    with pytest.raises(InvalidRequestError):
        submitted(models, context([(b"x-request-timeout-ms", b"soon")]), ["a"])
    assert model.asked == []
