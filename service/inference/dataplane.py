"""Texts in, predictions out: what every protocol shares. Nothing here knows of JSON, of HTTP's verbs, or of threads."""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from starlette.requests import ClientDisconnect

from export.bundle.classifier import Prediction
from export.bundle.format import Manifest
from service.errors import DeadlineError, InvalidRequestError, OverloadedError
from service.http.context import ADMISSION, RequestContext
from service.inference.registry import Model, Models
from service.inference.runner import Staged, Withdraw
from service.settings import Settings

_OUTCOMES: dict[type[BaseException], str] = {
    OverloadedError: "overloaded",
    DeadlineError: "deadline",
    ClientDisconnect: "left",
    CancelledError: "left",
}


class Answer(NamedTuple):
    """The predictions for the texts of one request, in order, and the bundle that gave them."""

    manifest: Manifest
    predictions: list[Prediction]


Done = Callable[[Answer | Exception], None]
"""Gets the answer, or why there is none. It does not raise."""


async def classify(
    models: Models,
    context: RequestContext,
    texts: Sequence[str],
    *,
    name: str = "texts",
    timeout_seconds: float | None = None,
    variant: str | None = None,
) -> Answer:
    """Answer the texts of a request by one of `models`, all or none, count them, and let a sample go to the teacher.

    `name` is what the protocol calls its list of texts, for messages; `timeout_seconds` and `variant` are those that
    it has a place for, beside the headers. Raises InvalidRequestError when the texts exceed
    a limit, and what `Runner.classify` raises.
    """
    task = _Task.begin(models, context, texts, name, timeout_seconds, variant)
    try:
        predictions = await task.model.runner.classify(
            texts, deadline=task.deadline, leaving=context.leaving, staged=task.staged
        )
    except BaseException as error:
        task.failed(error)
        raise
    task.answered(predictions)
    return Answer(task.model.manifest, predictions)


def submit(
    models: Models, context: RequestContext, texts: Sequence[str], done: Done, *, name: str = "texts"
) -> Withdraw:
    """Do the same and tell `done`, which is called later, once; what it gives withdraws the request.

    Raises what `classify` does before it waits.
    """
    task = _Task.begin(models, context, texts, name, None, None)

    def settled(outcome: list[Prediction] | Exception) -> None:
        if isinstance(outcome, Exception):
            task.failed(outcome)
            done(outcome)
        else:
            done(Answer(task.model.manifest, outcome))
            task.answered(outcome)  # nobody waits for that any more

    try:
        withdraw = task.model.runner.submit(texts, settled, deadline=task.deadline, staged=task.staged)
    except Exception as error:
        task.failed(error)
        raise

    def leave() -> None:
        if task.open:
            withdraw()
            task.failed(ClientDisconnect())

    return leave


def refuse_early(model: Model, context: RequestContext) -> None:
    """Refuse a request before its body is read if a text of usual length would not be answered in time.

    Raises OverloadedError, and InvalidRequestError for a deadline that cannot be read.
    """
    refusal = model.runner.refusal(context.timeout())
    if refusal is not None:
        model.metrics.answer("overloaded")
        context.give_back(ADMISSION)
        raise OverloadedError(refusal.message, retry_after=refusal.retry_after)


@dataclass(slots=True)
class _Task:
    """The texts of a request on their way through a model."""

    context: RequestContext
    texts: Sequence[str]
    model: Model
    deadline: float | None
    staged: Staged | None
    open: bool = True

    @classmethod
    def begin(
        cls,
        models: Models,
        context: RequestContext,
        texts: Sequence[str],
        name: str,
        timeout_seconds: float | None,
        variant: str | None,
    ) -> _Task:
        """Check the limits, choose the model and count the texts for the caller."""
        check_limits(texts, context.settings, name)
        deadline = context.deadline(timeout_seconds)
        model = models.choose(variant or context.variant)
        context.spend_rest(len(texts))
        staged, trace = None, context.trace
        if trace is not None:
            trace.texts, trace.version, staged = len(texts), model.manifest.version, trace.stage
        model.enter()
        return cls(context, texts, model, deadline, staged)

    def failed(self, error: BaseException) -> None:
        """Count a request without an answer."""
        self.open = False
        self.model.leave()
        if isinstance(error, OverloadedError):
            self.context.give_back(len(self.texts))
        self.model.metrics.answer(_OUTCOMES.get(type(error), "failed"))

    def answered(self, predictions: list[Prediction]) -> None:
        """End with answers, to be counted later."""
        self.open = False
        self.model.leave()
        seconds = time.monotonic() - self.context.began
        self.model.metrics.later(partial(self._count, predictions, seconds))

    def _count(self, predictions: list[Prediction], seconds: float) -> None:
        """Count the answers, and show them to the shadow."""
        model = self.model
        model.metrics.answer("ok")
        model.metrics.answer_seconds.observe(seconds)
        for text, prediction in zip(self.texts, predictions, strict=True):
            model.metrics.prediction(prediction)
            model.shadow.observe(text, prediction)


def check_limits(texts: Sequence[str], settings: Settings, name: str) -> None:
    """Refuse more texts, or longer ones, than the settings allow."""
    if len(texts) > settings.max_texts:
        raise InvalidRequestError(f"{name}: at most {settings.max_texts} per request, got {len(texts)}")
    for index, text in enumerate(texts):
        if len(text) > settings.max_characters:
            place = f"{name}[{index}]" if name.endswith("s") else name
            raise InvalidRequestError(f"{place}: at most {settings.max_characters} characters, got {len(text)}")
