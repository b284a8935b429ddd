"""What every protocol shares: the limits on texts, whom the texts go to, and that each outcome is counted once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import ClientDisconnect

from export.bundle.classifier import Prediction
from service.errors import DeadlineError, InferenceFailedError, InvalidRequestError, NotReadyError, OverloadedError
from service.http.context import RequestContext
from service.inference import dataplane
from service.telemetry.metrics import OUTCOMES, ModelMetrics

BEGAN = 1000.0

ENDS = [
    (OverloadedError("full", retry_after=1), "overloaded"),
    (DeadlineError("late"), "deadline"),
    (InferenceFailedError("no"), "failed"),
    (NotReadyError("no"), "failed"),
    (ValueError("a defect"), "failed"),
    (ClientDisconnect(), "left"),
    (asyncio.CancelledError(), "left"),
]


class Model:
    """A model whose runner gives `outcome` and keeps what it was asked; it counts who uses it."""

    def __init__(self, manifest):
        self.manifest = manifest
        self.registry = CollectorRegistry()
        self.metrics = ModelMetrics(self.registry, manifest, "stable")
        self.runner = SimpleNamespace(classify=self._classify, submit=self._submit)
        self.shadow = SimpleNamespace(observe=lambda *seen: self.observed.append(seen))
        self.observed, self.asked, self.users = [], [], 0
        self.outcome = self.tell = None
        self.withdrawn = 0

    def enter(self):
        self.users += 1

    def leave(self):
        self.users -= 1

    async def _classify(self, texts, **options):
        self.asked.append((texts, options))
        assert self.users == 1
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def _submit(self, texts, done, **options):
        """`tell(outcome)` is how the request ends."""
        self.asked.append((texts, options))
        assert self.users == 1
        if self.outcome is not None:
            raise self.outcome
        self.tell = done
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
    """The models of a service, which are `model` alone; it keeps the variants that were chosen."""
    chosen = []
    return SimpleNamespace(choose=lambda wanted: chosen.append(wanted) or model, chosen=chosen)


@pytest.fixture
def context(make_settings):
    """`context(headers, **settings)`: a request to a service with these settings."""

    def make(headers=(), **settings):
        return RequestContext(make_settings(**settings), "mine", dict(headers), None, BEGAN)

    return make


def prediction(label, *, tokens=3, truncated=False):
    values = np.eye(4, dtype=np.float32)[label]
    return Prediction(values, values, values, tokens, truncated, label, 1.0)


async def test_texts_are_answered_by_the_model_counted_and_observed_in_order(models, context, model):
    model.outcome = [prediction(1), prediction(3, tokens=32, truncated=True), prediction(1)]
    answer = await dataplane.classify(models, context(), ["a", "b", "c"])
    assert (answer.manifest, answer.predictions) == (model.manifest, model.outcome)
    assert model.observed == []
    assert model.counts("predictions_total") == {"shipping": 2, "technical": 1}
    assert model.counts("truncated_total") == {None: 1}
    assert model.counts("input_tokens_sum") == {None: 38}
    assert model.counts("answers_total") == {"ok": 1}
    assert model.counts("answer_seconds_count") == {None: 1}
    assert model.observed == [(text, row) for text, row in zip("abc", model.outcome, strict=True)]
    assert model.users == 0


@pytest.mark.parametrize(("outcome", "counted"), ENDS)
async def test_what_becomes_of_a_request_is_counted_once_and_nobody_else_hears_of_it(
    models, context, model, outcome, counted
):
    model.outcome = outcome
    with pytest.raises(type(outcome)):
        await dataplane.classify(models, context(), ["a"])
    assert counted in OUTCOMES
    assert model.counts("answers_total") == {counted: 1}
    assert model.counts("predictions_total") == model.counts("answer_seconds_count") == {}
    assert (model.observed, model.users) == ([], 0)


async def test_the_runner_is_told_the_deadline_and_how_to_see_the_client_leave(models, context, model):
    model.outcome = [prediction(0)]
    asked = context([(b"x-request-timeout-ms", b"2000")])
    await dataplane.classify(models, asked, ["a"])
    await dataplane.classify(models, asked, ["a"], timeout_seconds=0.5)
    assert [options["deadline"] for _, options in model.asked] == [BEGAN + 2, BEGAN + 0.5]
    assert all(options["leaving"] == asked.leaving for _, options in model.asked)


async def test_the_variant_of_the_protocol_comes_before_that_of_the_header(models, context, model):
    model.outcome = [prediction(0)]
    asked = context([(b"x-reflux-variant", b"candidate")])
    await dataplane.classify(models, asked, ["a"])
    await dataplane.classify(models, asked, ["a"], variant="stable")
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
async def test_a_limit_that_is_exceeded_is_named_and_nothing_is_run(models, context, model, texts, name, message):
    with pytest.raises(InvalidRequestError) as refused:
        await dataplane.classify(models, context(max_texts=3, max_characters=7), texts, name=name)
    assert str(refused.value) == message
    assert model.asked == []


async def test_what_is_just_within_the_limits_is_run(models, context, model):
    model.outcome = [prediction(0)] * 3
    await dataplane.classify(models, context(max_texts=3, max_characters=7), ["1234567"] * 3)
    assert len(model.asked) == 1


async def test_a_deadline_that_does_not_fit_is_refused_before_anything_is_run(models, context, model):
    with pytest.raises(InvalidRequestError):
        await dataplane.classify(models, context([(b"x-request-timeout-ms", b"soon")]), ["a"])
    assert model.asked == []


def submitted(models, context, texts, **options):
    """Submit texts: the answers or errors that were told, and what withdraws the request."""
    told = []
    return told, dataplane.submit(models, context, texts, told.append, **options)


async def test_who_submits_is_answered_before_anything_is_counted(models, context, model):
    seen = []

    def done(answer):
        seen.append((answer, list(model.observed)))

    dataplane.submit(models, context(), ["a", "b"], done)
    assert (seen, model.users) == ([], 1)
    predictions = [prediction(1), prediction(3, tokens=32, truncated=True)]
    model.tell(predictions)
    ((answer, observed),) = seen
    assert (answer.manifest, answer.predictions) == (model.manifest, predictions)
    assert (observed, model.observed, model.users) == ([], [], 0)
    model.metrics.later.flush()
    assert model.observed == [("a", predictions[0]), ("b", predictions[1])]
    assert model.counts("predictions_total") == {"shipping": 1, "technical": 1}
    assert model.counts("truncated_total") == {None: 1}
    assert model.counts("answers_total") == {"ok": 1}
    assert model.counts("answer_seconds_count") == {None: 1}
    assert model.users == 0


@pytest.mark.parametrize(("outcome", "counted"), [end for end in ENDS if isinstance(end[0], Exception)])
def test_who_submits_is_told_of_an_error_that_is_counted_once(models, context, model, outcome, counted):
    told, withdraw = submitted(models, context(), ["a"])
    model.tell(outcome)
    withdraw()
    assert (told, model.withdrawn) == ([outcome], 0)
    assert model.counts("answers_total") == {counted: 1}
    assert model.counts("predictions_total") == model.counts("answer_seconds_count") == {}
    assert (model.observed, model.users) == ([], 0)


@pytest.mark.parametrize(("outcome", "counted"), [end for end in ENDS if isinstance(end[0], Exception)])
def test_what_is_refused_is_raised_counted_once_and_leaves_the_model(models, context, model, outcome, counted):
    model.outcome = outcome
    told = []
    with pytest.raises(type(outcome)):
        dataplane.submit(models, context(), ["a"], told.append)
    assert model.counts("answers_total") == {counted: 1}
    assert (told, model.observed, model.users) == ([], [], 0)


def test_who_withdraws_is_counted_once_as_one_who_left(models, context, model):
    told, withdraw = submitted(models, context(), ["a"])
    withdraw()
    withdraw()
    assert model.withdrawn == 1
    assert model.counts("answers_total") == {"left": 1}
    assert (told, model.observed, model.users) == ([], [], 0)


async def test_to_withdraw_what_was_answered_changes_nothing(models, context, model):
    told, withdraw = submitted(models, context(), ["a"])
    model.tell([prediction(0)])
    withdraw()
    await asyncio.sleep(0)
    withdraw()
    assert (len(told), model.withdrawn, model.users) == (1, 0, 0)
    assert model.counts("answers_total") == {"ok": 1}


def test_the_runner_is_told_the_deadline_of_what_is_submitted(models, context, model):
    asked = context([(b"x-request-timeout-ms", b"2000"), (b"x-reflux-variant", b"candidate")])
    submitted(models, asked, ["a"])
    ((texts, options),) = model.asked
    assert (texts, options["deadline"], options.get("leaving")) == (["a"], BEGAN + 2, None)
    assert models.chosen == ["candidate"]


def test_a_limit_that_is_exceeded_is_named_to_who_submits(models, context, model):
    with pytest.raises(InvalidRequestError, match=r"^text: at most 7 characters, got 8$"):
        submitted(models, context(max_characters=7), ["12345678"], name="text")
    assert (model.asked, model.users, model.counts("answers_total")) == ([], 0, {})
