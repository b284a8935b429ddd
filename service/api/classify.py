"""`POST /classify`: one text or several, each answered with its label, its score and how it was read."""

from __future__ import annotations

import time
from typing import Annotated, Any, Self

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from export.bundle import Manifest
from export.runtime import Prediction
from service.api.body import read_json
from service.errors import ErrorBody, InvalidRequestError
from service.settings import Settings
from service.state import state_of

Text = Annotated[str, Field(pattern=r"\S", description="Not blank.")]

_DIGITS = 6
_EXACTLY_ONE: list[JsonValue] = [
    {"properties": {"text": {"type": "string"}}, "required": ["text"]},
    {"properties": {"texts": {"type": "array"}}, "required": ["texts"]},
]
_ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorBody} for code in (400, 413, 415, 422, 429, 500, 503)}
_RETRY_AFTER = {"description": "Seconds in which the queue should be empty.", "schema": {"type": "integer"}}
_ERRORS[429]["headers"] = {"Retry-After": _RETRY_AFTER}


class ClassifyRequest(BaseModel):
    """What to classify: exactly one of `text` and `texts`."""

    model_config = ConfigDict(
        extra="forbid", strict=True, use_attribute_docstrings=True, json_schema_extra={"oneOf": _EXACTLY_ONE}
    )

    text: Text | None = None
    """One text."""

    texts: Annotated[list[Text], Field(min_length=1)] | None = None
    """Several texts, answered in their order, all or none."""

    top_k: int = Field(default=1, ge=1)
    """How many labels to list in `top`; more than there are means all."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.text is None) == (self.texts is None):
            raise PydanticCustomError("exactly_one", "give exactly one of `text` and `texts`")
        return self

    def all(self) -> list[str]:
        """Return the texts, be they one or several."""
        return [self.text] if self.text is not None else self.texts or []


class Score(BaseModel):
    """A label and its calibrated probability, rounded to six digits."""

    label: str
    score: float = Field(ge=0, le=1)


class Result(BaseModel):
    """The answer to one text."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    label: str
    """The most probable label."""

    score: float = Field(ge=0, le=1)
    """Its calibrated probability, rounded to six digits."""

    top: list[Score]
    """The `top_k` most probable labels, best first."""

    tokens: int = Field(ge=0)
    """How many tokens the student read."""

    truncated: bool
    """Whether the text had more."""


class ClassifyResponse(BaseModel):
    """One result per text, in order."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    request_id: str
    """That of the header `X-Request-ID`, or a new one."""

    model: str
    """The name of the bundle that answered."""

    version: str
    """Its version; another may answer otherwise."""

    results: list[Result]


def create_router(settings: Settings) -> APIRouter:
    """Make the route, documented with the limits that are in force."""
    router = APIRouter(tags=["classify"])
    body = {"required": True, "content": {"application/json": {"schema": _request_schema(settings)}}}
    router.add_api_route(
        "/classify",
        classify,
        methods=["POST"],
        response_model=ClassifyResponse,
        responses=_ERRORS,
        openapi_extra={"requestBody": body},
    )
    return router


async def classify(request: Request) -> Response:
    """Classify one text or several.

    Each text is answered as if it had come alone. A request is answered whole or not at all.
    """
    state = state_of(request)
    engine = state.require_engine()
    asked = await read_json(request, ClassifyRequest)
    texts = asked.all()
    _check_limits(asked, state.settings)
    predictions = await engine.pool.classify(texts)
    started = time.perf_counter()
    request_id: str = request.state.request_id
    answer = ClassifyResponse(
        request_id=request_id,
        model=engine.manifest.name,
        version=engine.manifest.version,
        results=[_result(prediction, engine.manifest, asked.top_k) for prediction in predictions],
    )
    response = Response(answer.model_dump_json(), media_type="application/json")
    for text, prediction in zip(texts, predictions, strict=True):
        state.metrics.prediction(int(prediction.probabilities.argmax()), prediction)
        engine.shadow.observe(request_id, text, prediction)
    state.metrics.post_seconds.observe(time.perf_counter() - started)
    return response


def _check_limits(asked: ClassifyRequest, settings: Settings) -> None:
    texts = asked.all()
    if len(texts) > settings.max_texts:
        raise InvalidRequestError(f"texts: at most {settings.max_texts} per request, got {len(texts)}")
    for index, text in enumerate(texts):
        if len(text) > settings.max_characters:
            name = "text" if asked.texts is None else f"texts[{index}]"
            raise InvalidRequestError(f"{name}: at most {settings.max_characters} characters, got {len(text)}")


def _result(prediction: Prediction, manifest: Manifest, top_k: int) -> Result:
    # Stable, so that of equal scores the first label wins, as it does for argmax.
    order = np.argsort(-prediction.probabilities, kind="stable")[:top_k]
    top = [
        Score(label=manifest.labels[index], score=round(float(prediction.probabilities[index]), _DIGITS))
        for index in order
    ]
    return Result(
        label=top[0].label,
        score=top[0].score,
        top=top,
        tokens=prediction.tokens,
        truncated=prediction.truncated,
    )


def _request_schema(settings: Settings) -> dict[str, Any]:
    """Return the JSON schema of a request, with the limits of this service."""
    schema = ClassifyRequest.model_json_schema()
    text, texts = (schema["properties"][name]["anyOf"][0] for name in ("text", "texts"))
    text["maxLength"] = texts["items"]["maxLength"] = settings.max_characters
    texts["maxItems"] = settings.max_texts
    return schema
