"""`POST /classify`: one text or several, each answered with its label, its score and how many tokens were read."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from export.bundle.classifier import Deferred, Prediction
from export.bundle.decision import Decision
from export.bundle.format import Manifest
from service.compat import infinity
from service.compat.errors import CODES, OpenAIErrorBody
from service.errors import InferenceFailedError, InvalidRequestError
from service.http.body import ITEMS_BESIDE, check_items, has_key, parse, read_body
from service.http.context import RequestContext, context_of
from service.http.error_body import ErrorBody
from service.http.fast_route import FastRoute, Respond
from service.http.openapi import EXAMPLE, Text, failures, request_body
from service.inference import dataplane
from service.inference.dataplane import Predictions
from service.inference.registry import Models
from service.inference.types import Withdraw
from service.settings import Settings
from service.state import state_of

_DIGITS = 6
_SCORE = f".{_DIGITS}f"
_MOST_MANIFESTS = 16
_EXACTLY_ONE: list[JsonValue] = [
    {"properties": {"text": {"type": "string"}}, "required": ["text"]},
    {"properties": {"texts": {"type": "array"}}, "required": ["texts"]},
]


class ClassifyRequest(BaseModel):
    """What to classify: exactly one of `text` and `texts`."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"oneOf": _EXACTLY_ONE})

    text: Text | None = Field(default=None, description="One text.")
    texts: Annotated[list[Text], Field(min_length=1)] | None = Field(
        default=None, description="Several texts, answered in their order, all or none."
    )
    top_k: int = Field(default=1, ge=1, description="How many labels to list in `top`; more than there are means all.")
    logits: bool = Field(
        default=False,
        description="Answer with the `logits` too, one per label in the order of the bundle's labels, uncalibrated.",
    )
    embedding: bool = Field(
        default=False, description="Answer with the `embedding` too: what the student made of the text before it chose."
    )

    def all(self) -> list[str]:
        """Return the texts. Raises InvalidRequestError unless exactly one of `text` and `texts` is given.

        That is checked here because a validator in Python costs more than pydantic's whole own validation.
        """
        if (self.text is None) == (self.texts is None):
            raise InvalidRequestError("body: give exactly one of `text` and `texts`")
        return [self.text] if self.text is not None else self.texts or []


class Score(BaseModel):
    """A label and its calibrated probability, rounded to six digits."""

    label: str
    score: float = Field(ge=0, le=1)


class Result(BaseModel):
    """The answer to one text."""

    label: str = Field(description="The most probable label.")
    score: float = Field(ge=0, le=1, description="Its calibrated probability, rounded to six digits.")
    top: list[Score] = Field(description="The `top_k` most probable labels, best first.")
    labels: list[str] | None = Field(
        default=None,
        description="From a multi-label bundle alone: every label from its threshold on, best first, if any.",
    )
    decision: str | None = Field(
        default=None,
        description="From a bundle with a decision alone: what to do about the text; `abstain` means to ask a human.",
    )
    stage: str | None = Field(
        default=None,
        description="From a cascade alone: the stage that answered, such as `0-static`, the cheapest, or `teacher`.",
    )
    deferred: bool | None = Field(
        default=None,
        description="From a cascade that may ask the teacher alone: whether no student was sure enough, so that the "
        "text was left to the teacher.",
    )
    fallback: str | None = Field(
        default=None,
        description="Of a deferred text that the teacher did not answer alone: why, such as `timeout`. The last "
        "student answered it.",
    )
    tokens: int = Field(ge=0, description="How many tokens the student read.")
    truncated: bool = Field(description="Whether the text had more.")
    logits: list[float] | None = Field(
        default=None,
        description="Where they were asked for: one per label, in the order of the bundle's labels, uncalibrated.",
    )
    embedding: list[float] | None = Field(
        default=None, description="Where it was asked for: what the student made of the text before it chose."
    )


class ClassifyResponse(BaseModel):
    """One result per text, in order."""

    request_id: str = Field(description="That of the header `X-Request-ID`, or a new one.")
    model: str = Field(description="The name of the bundle that answered.")
    version: str = Field(description="Its version; another may answer otherwise.")
    results: list[Result]


def create_router(settings: Settings, models: Models) -> APIRouter:
    """Return the route to `models`, documented with the limits of `settings`."""
    router = APIRouter(tags=["classify"], route_class=FastRoute)
    requests: list[type[BaseModel]] = [ClassifyRequest]
    response: Any = ClassifyResponse
    errors = failures(*CODES)
    if settings.protocols:
        requests.append(infinity.InfinityRequest)
        response = ClassifyResponse | infinity.InfinityResponse
        errors = failures(*CODES, shapes=(ErrorBody, OpenAIErrorBody)) | failures(404, shapes=(OpenAIErrorBody,))
    router.add_api_route(
        "/classify",
        classify,
        methods=["POST"],
        response_model=response,
        responses=errors,
        openapi_extra={"requestBody": request_body(settings, *requests, example={"text": EXAMPLE})},
    )
    (route,) = router.routes
    assert isinstance(route, FastRoute)
    route.direct = partial(classify_directly, models)
    return router


async def classify(request: Request) -> Response:
    """Classify one text or several.

    Each text is answered as if it had come alone. A request is answered whole or not at all.
    """
    context, models = context_of(request), state_of(request).models
    body = await read_body(context)
    try:
        asked = parse(body, ClassifyRequest)
    except InvalidRequestError:
        if context.settings.protocols and has_key(body, "input"):
            return await infinity.classify(models, context, body)
        raise
    name = "text" if asked.texts is None else "texts"
    answer = await dataplane.classify(models, context, asked.all(), name=name)
    return Response(_to_json(context.request_id, answer, asked), media_type="application/json")


def classify_directly(models: Models, context: RequestContext, body: bytes, respond: Respond) -> Withdraw | None:
    """Classify a well-formed body, without ASGI; see `fast_route.Direct`."""
    if len(body) > ITEMS_BESIDE:  # a shorter one cannot have too many items
        check_items(body, context.settings)
    try:
        asked = ClassifyRequest.model_validate_json(body)
    except ValidationError:
        return None

    def done(outcome: Predictions | Exception) -> None:
        if isinstance(outcome, Exception):
            respond(outcome)
            return
        try:
            content = _to_json(context.request_id, outcome, asked)
        except Exception as error:
            respond(error)
        else:
            respond(content)

    return dataplane.submit(models, context, asked.all(), done, name="text" if asked.texts is None else "texts")


def _to_json(request_id: str, answer: Predictions, asked: ClassifyRequest) -> bytes:
    """Return a `ClassifyResponse` as JSON, written by hand: to build its models takes longer than a small student.

    The request's id needs no escaping.
    """
    manifest = answer.manifest
    parts = _parts_by_manifest.get(id(manifest)) or _fixed_parts(manifest)
    rule = answer.decision
    results = ",".join([_result(prediction, parts, asked, rule) for prediction in answer.predictions])
    return f'{{"request_id":"{request_id}",{parts.model},"results":[{results}]}}'.encode()


def _result(prediction: Prediction, parts: _FixedParts, asked: ClassifyRequest, decision: Decision | None) -> str:
    _, _, labels, threshold, stages, defers = parts
    probabilities = prediction.probabilities
    best = top = f'"label":{labels[prediction.best]},"score":{prediction.score:{_SCORE}}'
    if asked.top_k > 1:  # stable, so that the first of labels with equal scores wins, as it does for argmax
        order = np.argsort(-probabilities, kind="stable")[: asked.top_k].tolist()
        top = "},{".join(f'"label":{labels[index]},"score":{probabilities[index]:{_SCORE}}' for index in order)
    several = "" if threshold is None else f',"labels":[{_above(threshold, probabilities, labels)}]'
    action = "" if decision is None else f',"decision":{_action(decision, prediction)}'
    stage = stages[prediction.stage] if stages else ""
    if defers:
        stage += _deferred(prediction.deferred)
    truncated = "true" if prediction.truncated else "false"
    vectors = (f',"logits":{_vector(prediction.logits)}' if asked.logits else "") + (
        f',"embedding":{_vector(prediction.embedding)}' if asked.embedding else ""
    )
    return (
        f'{{{best},"top":[{{{top}}}]{several}{action}{stage},"tokens":{prediction.tokens},"truncated":{truncated}'
        f"{vectors}}}"
    )


def _deferred(deferred: Deferred | None) -> str:
    """Return what a cascade that may ask the teacher adds to an answer."""
    if deferred is None:
        return ',"deferred":false'
    fallback = "" if deferred.fallback is None else f',"fallback":"{deferred.fallback}"'
    return f',"deferred":true{fallback}'


def _action(decision: Decision, prediction: Prediction) -> str:
    return json.dumps(decision.act(prediction.probabilities, prediction.embedding), ensure_ascii=False)


def _above(threshold: float, probabilities: npt.NDArray[np.float32], labels: tuple[str, ...]) -> str:
    """Return the labels whose probability is at least `threshold`, best first."""
    order = np.argsort(-probabilities, kind="stable").tolist()
    return ",".join(labels[index] for index in order if probabilities[index] >= threshold)


class _FixedParts(NamedTuple):
    """The JSON that all answers of a bundle share."""

    manifest: Manifest
    """Kept, so that no other manifest gets its id."""

    model: str
    labels: tuple[str, ...]
    threshold: float | None
    """The least probability at which a multi-label bundle gives a label; None for other bundles."""

    stages: tuple[str, ...]
    """What each stage of a cascade adds to its answers, and its teacher."""

    defers: bool
    """Whether a cascade may ask the teacher."""


_parts_by_manifest: dict[int, _FixedParts] = {}
"""By the manifest's id: a version does not cover names, and a hash of the whole takes too long for each answer."""


def _fixed_parts(manifest: Manifest) -> _FixedParts:
    """Make and keep the fixed parts of a bundle."""
    if len(_parts_by_manifest) >= _MOST_MANIFESTS:
        _parts_by_manifest.clear()
    parts = _FixedParts(
        manifest,
        f'"model":{json.dumps(manifest.name)},"version":"{manifest.version}"',
        tuple(json.dumps(label, ensure_ascii=False) for label in manifest.labels),
        manifest.threshold if manifest.multi_label else None,
        tuple(f',"stage":"{name}"' for name in manifest.answering),
        manifest.deferred_below is not None,
    )
    _parts_by_manifest[id(manifest)] = parts
    return parts


def _vector(values: npt.NDArray[np.float32]) -> str:
    if not np.isfinite(values).all():
        raise InferenceFailedError("the graph returned values that are not numbers")
    return json.dumps([round(value, _DIGITS) for value in values.tolist()])
