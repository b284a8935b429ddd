"""SageMaker (`/invocations`, `/ping`) and Vertex AI (`/vertex`), as TEI serves them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import TypedDict

from service.compat.errors import CODES, TEIErrorBody
from service.compat.huggingface import (
    Options,
    Ranking,
    add_inference_route,
    health,
    rankings,
)
from service.compat.reply import json_reply
from service.http.body import read_json
from service.http.context import context_of
from service.http.fast_route import FastRoute
from service.http.health import Health
from service.http.openapi import EXAMPLE, Text, failures, request_body
from service.inference import dataplane
from service.settings import Settings
from service.state import state_of


class Instance(Options):
    """One text, as such or with what may be asked of TEI."""

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
    """There are none; they go with each instance."""

    model_config = ConfigDict(extra="forbid", strict=True)


class VertexRequest(BaseModel):
    """A request as Vertex AI passes it on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    instances: Annotated[list[Instance], Field(min_length=1)]
    parameters: NoParameters | None = None


class VertexResponse(TypedDict):
    """For each instance all labels, best first."""

    predictions: list[Ranking]


def create_router(settings: Settings) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["clouds"], route_class=FastRoute)
    add_inference_route(router, "/invocations", settings)
    router.add_api_route(
        "/ping", health, methods=["GET"], response_model=Health, responses=failures(503, shapes=(TEIErrorBody,))
    )
    router.add_api_route(
        "/vertex",
        vertex,
        methods=["POST"],
        response_model=VertexResponse,
        responses=failures(*CODES, shapes=(TEIErrorBody,)),
        openapi_extra={"requestBody": request_body(settings, VertexRequest, example={"instances": [EXAMPLE]})},
    )
    return router


async def vertex(request: Request) -> Response:
    """Classify as a container of Vertex AI does."""
    context = context_of(request)
    asked = await read_json(context, VertexRequest)
    answer = await dataplane.classify(
        state_of(request).models, context, [one.inputs for one in asked.instances], name="instances"
    )
    reply: VertexResponse = {"predictions": rankings(answer, list(asked.instances), "instances")}
    return json_reply(reply)
