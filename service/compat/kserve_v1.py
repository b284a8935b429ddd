"""KServe's V1 protocol, `POST /v1/models/{name}:predict`. Answers contain labels and probabilities, never indices."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from export.bundle.classifier import Prediction
from service.compat.errors import CODES, KServeErrorBody
from service.compat.names import served, variant_of
from service.compat.protocol import ProtocolRouter, json_response
from service.compat.scores import rounded
from service.http.body import read_json
from service.http.context import context_of
from service.http.openapi import EXAMPLE, Text
from service.inference import dataplane
from service.settings import Settings
from service.state import state_of

_EXACTLY_ONE: list[JsonValue] = [
    {"properties": {name: {"type": "array"}}, "required": [name]} for name in ("instances", "inputs")
]


class V1Request(BaseModel):
    """Texts, as `instances` or as `inputs`."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"oneOf": _EXACTLY_ONE})

    instances: Annotated[list[Text], Field(min_length=1)] | None = None
    inputs: Annotated[list[Text], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.instances is None) == (self.inputs is None):
            raise PydanticCustomError("exactly_one", "give exactly one of `instances` and `inputs`")
        return self


class V1Prediction(TypedDict):
    """The answer to one text: the best label, its calibrated probability, and those of all labels."""

    label: str
    score: float
    probabilities: dict[str, float]


class V1Response(TypedDict):
    """One prediction per text, in order."""

    predictions: list[V1Prediction]


class V1Models(TypedDict):
    """The names of the served models."""

    models: list[str]


class V1Model(TypedDict):
    """The state of a served model."""

    name: str
    ready: bool


def create_router(settings: Settings) -> APIRouter:
    """Make the routes."""
    router = ProtocolRouter(settings, KServeErrorBody, tags=["kserve v1"], prefix="/v1/models")
    router.add_get("", models, V1Models)
    router.add_get("/{name}", model, V1Model, codes=(404, 422, 503))
    example = {"instances": [EXAMPLE]}
    router.add_post("/{name}:predict", predict, V1Response, V1Request, example=example, codes=(404, *CODES))
    return router


async def predict(request: Request, name: str) -> Response:
    """Classify as a KServe predictor does."""
    context, models = context_of(request), state_of(request).models
    variant = variant_of(models, name)
    asked = await read_json(context, V1Request)
    texts, key = (asked.inputs or [], "inputs") if asked.instances is None else (asked.instances, "instances")
    answer = await dataplane.classify(models, context, texts, name=key, variant=variant)
    labels = answer.manifest.labels
    response: V1Response = {"predictions": [_prediction(labels, prediction) for prediction in answer.predictions]}
    return json_response(response)


async def models(request: Request) -> Response:
    """List the served models."""
    names = {manifest.name for manifest in served(state_of(request).models).values()}
    response: V1Models = {"models": sorted(names)}
    return json_response(response)


async def model(request: Request, name: str) -> Response:
    """Return whether a model is ready."""
    state = state_of(request)
    variant_of(state.models, name)
    state.require_ready()
    response: V1Model = {"name": name, "ready": True}
    return json_response(response)


def _prediction(labels: tuple[str, ...], prediction: Prediction) -> V1Prediction:
    scores = rounded(prediction.probabilities)
    best = prediction.best
    return {"label": labels[best], "score": scores[best], "probabilities": dict(zip(labels, scores, strict=True))}
