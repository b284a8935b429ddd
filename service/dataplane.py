"""Texts in, predictions out: what every protocol shares. Nothing here knows of JSON, of HTTP's verbs, or of threads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import ClientDisconnect

from export.bundle import Manifest
from export.runtime import Prediction
from service.errors import DeadlineError, InvalidRequestError, OverloadedError
from service.exchange import Exchange
from service.settings import Settings

_OUTCOMES: dict[type[Exception], str] = {OverloadedError: "overloaded", DeadlineError: "deadline"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The predictions for the texts of one request, in order, and the bundle that gave them."""

    manifest: Manifest
    predictions: list[Prediction]


async def classify(
    exchange: Exchange,
    texts: Sequence[str],
    *,
    name: str = "texts",
    timeout_seconds: float | None = None,
    variant: str | None = None,
) -> Answer:
    """Answer the texts of a request, all or none, count them, and let a sample go to the teacher.

    `name` is what the protocol calls its list of texts, for messages; `timeout_seconds` and `variant` are those that
    it has a place for, beside the headers. Raises InvalidRequestError when the texts exceed
    a limit, RateLimitedError when the caller's key has spent its rate, and what `Runner.classify` raises.
    """
    state = exchange.state
    check_limits(texts, state.settings, name)
    deadline = exchange.deadline(timeout_seconds)
    model = state.models.choose(variant or exchange.variant)
    exchange.spend(len(texts))
    trace = exchange.trace
    staged = None
    if trace is not None:
        trace.texts, trace.version, staged = len(texts), model.manifest.version, trace.stage
    outcome = "left"
    model.enter()
    try:
        predictions = await model.runner.classify(texts, deadline=deadline, leaving=exchange.leaving, staged=staged)
        outcome = "ok"
    except ClientDisconnect:
        raise
    except Exception as error:
        outcome = _OUTCOMES.get(type(error), "failed")
        raise
    finally:
        model.leave()
        model.metrics.answer(outcome)
    ended = time.monotonic()
    model.metrics.answer_seconds.observe(ended - exchange.began)
    for text, prediction in zip(texts, predictions, strict=True):
        model.metrics.prediction(int(prediction.probabilities.argmax()), prediction)
        model.shadow.observe(exchange.request_id, text, prediction)
    counted = time.monotonic()
    model.metrics.post_seconds.observe(counted - ended)
    if staged is not None:
        staged("post", ended, counted)
    return Answer(model.manifest, predictions)


def check_limits(texts: Sequence[str], settings: Settings, name: str) -> None:
    """Refuse more texts, or longer ones, than the settings allow."""
    if len(texts) > settings.max_texts:
        raise InvalidRequestError(f"{name}: at most {settings.max_texts} per request, got {len(texts)}")
    for index, text in enumerate(texts):
        if len(text) > settings.max_characters:
            place = f"{name}[{index}]" if name.endswith("s") else name
            raise InvalidRequestError(f"{place}: at most {settings.max_characters} characters, got {len(text)}")
