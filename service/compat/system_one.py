"""System One, `POST /v1/systemone`: the format of TypeSafe's Jev and of many open servers.

The student answers a `choice` among its labels. What it was taught is in its weights, so instructions and descriptions
are not read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from service.compat.choices import check_questions, decided, refuse_other_kinds, stable, variant_named
from service.compat.errors import SystemOneErrorBody
from service.compat.protocol import ProtocolRouter, json_response
from service.compat.scores import DIGITS
from service.http.body import read_json
from service.http.context import context_of
from service.http.fast_route import FastRoute
from service.http.openapi import EXAMPLE, Text
from service.inference import dataplane
from service.settings import Settings
from service.state import state_of

REQUEST_ID = "x-typesafe-request-id"
"""Without this header, `request_id` of a response raises an exception in TypeSafe's client."""

_SHOWN_NAME = 64


def _text(given: Any) -> Any:
    """Return a text, or anything else for the validator to refuse. Raises PydanticCustomError for an object or list."""
    if isinstance(given, dict | list):
        raise PydanticCustomError("state", "send the text as a string: this model reads one text, and no objects")
    return given


def _no_assets(given: Any) -> Any:
    """Return None. Raises PydanticCustomError for anything else."""
    if given is not None:
        raise PydanticCustomError("assets", "images are not read: this model reads one text; leave `assets` out")
    return given


class SystemOneQuestion(BaseModel):
    """The student's question: a choice among its labels."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["choice"]
    instructions: Any = Field(default=None, description="Not read.")
    criteria: Annotated[dict[str, Any], Field(min_length=2)] = Field(
        description="All labels of the bundle, in any order; their descriptions are not read."
    )


class SystemOneRequest(BaseModel):
    """A request of TypeSafe's client. Other keys than these are ignored, as the format wants it."""

    model_config = ConfigDict(strict=True)

    model: str = Field(
        default="default", description="The bundle's name, or any other, such as `jev-latest`: the answer has the name."
    )
    state: Annotated[Text, BeforeValidator(_text)]
    questions: Annotated[
        dict[str, Annotated[SystemOneQuestion, BeforeValidator(refuse_other_kinds)]], Field(min_length=1)
    ] = Field(description="Questions by the names that their answers get.")
    assets: Annotated[None, BeforeValidator(_no_assets)] = Field(
        default=None, description="Images, which this model does not read."
    )

    @model_validator(mode="before")
    @classmethod
    def _in_this_format(cls, value: Any) -> Any:
        if isinstance(value, dict) and "input" in value and "state" not in value:
            raise PydanticCustomError("format", "this is a request of the Decisions API; send it to /v1/decisions")
        return value


class SystemOneAnswer(TypedDict):
    """The answer to a question, with calibrated probabilities in the order of its criteria.

    `confidence` is the probability of `choice`, scaled so that equal probabilities of all labels give 0.
    """

    type: Literal["choice"]
    choice: str
    confidence: float
    probabilities: dict[str, float]


class SystemOneUsage(TypedDict):
    """The tokens that the student read; it writes none."""

    input_tokens: int
    output_tokens: int


class SystemOneResponse(TypedDict):
    """One answer per question, by its name."""

    model: str
    answers: dict[str, SystemOneAnswer]
    usage: SystemOneUsage


def create_router(settings: Settings) -> APIRouter:
    """Make the route."""
    router = ProtocolRouter(settings, SystemOneErrorBody, tags=["system one"], route_class=FastRoute)
    criteria = {"billing": "An invoice or a charge", "shipping": None}
    question = {"type": "choice", "instructions": "Which team?", "criteria": criteria}
    example = {"model": "default", "state": EXAMPLE, "questions": {"team": question}}
    router.add_post("/v1/systemone", decide, SystemOneResponse, SystemOneRequest, example=example)
    return router


async def decide(request: Request) -> Response:
    """Answer a choice among the student's labels, as a server of System One does."""
    context, models = context_of(request), state_of(request).models
    manifest = stable(models)
    asked = await read_json(context, SystemOneRequest, labels=len(manifest.labels))
    listed = {name: list(question.criteria) for name, question in asked.questions.items()}
    options = [(f"questions.{name[:_SHOWN_NAME]}.criteria", them) for name, them in listed.items()]
    check_questions(manifest, context.settings, options)
    variant = variant_named(models, asked.model)
    answer = await dataplane.classify(models, context, [asked.state], name="state", variant=variant)
    label, probabilities = decided(answer)
    response: SystemOneResponse = {
        "model": answer.manifest.name,
        "answers": {
            name: {
                "type": "choice",
                "choice": label,
                "confidence": _confidence(probabilities[label], len(probabilities)),
                "probabilities": {option: probabilities[option] for option in them},
            }
            for name, them in listed.items()
        },
        "usage": {"input_tokens": answer.predictions[0].tokens, "output_tokens": 0},
    }
    return json_response(response, {REQUEST_ID: context.request_id})


def _confidence(best: float, labels: int) -> float:
    """Return the confidence of a choice by TypeSafe's formula: 0 if all labels are equally probable, 1 at most."""
    return round(max(0.0, (best - 1 / labels) / (1 - 1 / labels)), DIGITS)
