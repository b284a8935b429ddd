"""SageMaker (`/invocations`, `/ping`) and Vertex AI (`/vertex`), as Text Embeddings Inference (TEI) serves them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import TypedDict

from service.compat.errors import TEIErrorBody
from service.compat.huggingface import Options, Ranking, add_inference_route, health, rankings
from service.compat.protocol import ProtocolRouter, json_response
from service.http.body import read_json
from service.http.context import context_of
from service.http.fast_route import FastRoute
from service.http.health import Health
from service.http.openapi import EXAMPLE, Text
from service.inference import dataplane
from service.settings import Settings
from service.state import state_of


class Instance(Options):
    """One text: a string, or an object with TEI's options."""

    inputs: Text

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"inputs": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe what is read."""
        described = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [described["properties"]["inputs"], described]}


class NoParameters(BaseModel):
    """No parameters: options belong to each instance."""

    model_config = ConfigDict(extra="forbid", strict=True)


class VertexRequest(BaseModel):
    """A request that Vertex AI forwards."""

    model_config = ConfigDict(extra="forbid", strict=True)

    instances: Annotated[list[Instance], Field(min_length=1)]
    parameters: NoParameters | None = None


class VertexResponse(TypedDict):
    """All labels for each instance, best first."""

    predictions: list[Ranking]


def create_router(settings: Settings) -> APIRouter:
    """Make the routes."""
    router = ProtocolRouter(settings, TEIErrorBody, tags=["clouds"], route_class=FastRoute)
    add_inference_route(router, "/invocations")
    router.add_get("/ping", health, Health)
    router.add_post("/vertex", vertex, VertexResponse, VertexRequest, example={"instances": [EXAMPLE]})
    return router


async def vertex(request: Request) -> Response:
    """Classify as a Vertex AI container does."""
    context = context_of(request)
    asked = await read_json(context, VertexRequest)
    answer = await dataplane.classify(
        state_of(request).models, context, [one.inputs for one in asked.instances], name="instances"
    )
    response: VertexResponse = {"predictions": rankings(answer, asked.instances, "instances")}
    return json_response(response)
