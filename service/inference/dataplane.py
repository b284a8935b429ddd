"""Texts in, predictions out: what every protocol shares. It knows neither JSON, nor HTTP methods, nor threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from starlette.requests import ClientDisconnect

from export.bundle.classifier import Prediction
from export.bundle.decision import Decision
from export.bundle.format import Manifest
from service.errors import DeadlineError, InvalidRequestError, OverloadedError
from service.http.context import ADMISSION, RequestContext
from service.inference.disconnects import await_answer
from service.inference.registry import Model, Models
from service.inference.types import RecordStage, Withdraw
from service.settings import Settings

_OUTCOMES: dict[type[BaseException], str] = {
    OverloadedError: "overloaded",
    DeadlineError: "deadline",
    ClientDisconnect: "left",
}


class Predictions(NamedTuple):
    """The predictions for the texts of one request, in order, and the manifest of the bundle that made them.

    `decision` is the bundle's rule for what to do about a text, if it has one.
    """

    manifest: Manifest
    predictions: list[Prediction]
    decision: Decision | None


Done = Callable[[Predictions | Exception], None]
"""Called with the predictions, or with the reason why there are none. It does not raise."""


async def classify(
    models: Models,
    context: RequestContext,
    texts: Sequence[str],
    *,
    name: str = "texts",
    timeout_seconds: float | None = None,
    variant: str | None = None,
) -> Predictions:
    """Submit texts and await their predictions.

    Raises what `submit` raises or passes to `done`, and ClientDisconnect when the client leaves first.
    """
    start = partial(submit, models, context, texts, name=name, timeout_seconds=timeout_seconds, variant=variant)
    return await await_answer(start, context.leaving)


def submit(
    models: Models,
    context: RequestContext,
    texts: Sequence[str],
    done: Done,
    *,
    name: str = "texts",
    timeout_seconds: float | None = None,
    variant: str | None = None,
) -> Withdraw:
    """Let one of `models` answer the texts of a request, all or none; `done` is called later, once.

    The outcome is counted, and the shadow sees the answered texts. `name` is what the protocol calls its list of texts,
    for messages. `timeout_seconds` and `variant` are those of the protocol's body, if it has them, beside the headers.
    Raises InvalidRequestError when the texts exceed a limit, NotReadyError while there is no model, and what
    `Scheduler.submit` raises.
    """
    check_limits(texts, context.settings, name)
    seconds = context.timeout(timeout_seconds)
    deadline = None if seconds is None else context.began + seconds
    wanted = variant or context.variant
    model = models.only if wanted is None and models.only is not None else models.choose(wanted)
    if context.caller is not None:
        context.spend_rest(len(texts))
    record_stage, trace = None, context.trace
    if trace is not None:
        trace.texts, trace.version, record_stage = len(texts), model.manifest.version, trace.stage
    request = _Request(context, texts, model, done)
    settle = request.settle if model.deferral is None else partial(request.defer, deadline, record_stage)
    try:
        withdraw = model.scheduler.submit(texts, settle, deadline=deadline, record_stage=record_stage)
    except Exception as error:
        request.count_failure(error)
        raise
    return partial(request.leave, withdraw)


def refuse_early(model: Model, context: RequestContext) -> None:
    """Refuse a request before its body is read if a text of average length would not be answered in time.

    Raises OverloadedError, and InvalidRequestError for a deadline that cannot be read.
    """
    refusal = model.scheduler.refusal(context.timeout())
    if refusal is not None:
        model.metrics.answer("overloaded")
        context.give_back(ADMISSION)
        raise OverloadedError(refusal.message, retry_after=refusal.retry_after)


@dataclass(slots=True)
class _Request:
    """The texts of a request that a model is answering."""

    context: RequestContext
    texts: Sequence[str]
    model: Model
    done: Done
    open: bool = True
    withdraw_deferred: Withdraw | None = None

    def defer(
        self, deadline: float | None, record_stage: RecordStage | None, outcome: list[Prediction] | Exception
    ) -> None:
        """Let the teacher answer what the students leave to it, and settle then."""
        if isinstance(outcome, Exception) or self.model.deferral is None:
            self.settle(outcome)
            return
        self.withdraw_deferred = self.model.deferral.submit(
            self.texts, outcome, self.settle, deadline=deadline, record_stage=record_stage
        )

    def settle(self, outcome: list[Prediction] | Exception) -> None:
        """Pass on the outcome, and count it."""
        self.open = False
        if isinstance(outcome, Exception):
            self.count_failure(outcome)
            self.done(outcome)
        else:
            self.done(Predictions(self.model.manifest, outcome, self.model.decision))
            seconds = time.monotonic() - self.context.began
            self.model.metrics.deferred.add(partial(self._count, outcome, seconds))

    def leave(self, withdraw: Withdraw) -> None:
        """Withdraw the texts of a client that left, unless they were answered."""
        if self.open:
            self.open = False
            withdraw()
            if self.withdraw_deferred is not None:
                self.withdraw_deferred()
            self.count_failure(ClientDisconnect())

    def count_failure(self, error: Exception) -> None:
        """Count a request without an answer."""
        if isinstance(error, OverloadedError):
            self.context.give_back(len(self.texts))
        self.model.metrics.answer(_OUTCOMES.get(type(error), "failed"))

    def _count(self, predictions: list[Prediction], seconds: float) -> None:
        """Count the answers, and show them to the shadow."""
        model = self.model
        model.metrics.answer("ok")
        model.metrics.answer_seconds.observe(seconds)
        for text, prediction in zip(self.texts, predictions, strict=True):
            model.metrics.prediction(prediction)
            model.shadow.observe(text, prediction)


def check_limits(texts: Sequence[str], settings: Settings, name: str) -> None:
    """Raise InvalidRequestError for more texts, or a longer text, than the settings allow."""
    if len(texts) > settings.max_texts:
        raise InvalidRequestError(f"{name}: at most {settings.max_texts} per request, got {len(texts)}")
    for index, text in enumerate(texts):
        if len(text) > settings.max_characters:
            place = f"{name}[{index}]" if name.endswith("s") else name
            raise InvalidRequestError(f"{place}: at most {settings.max_characters} characters, got {len(text)}")
