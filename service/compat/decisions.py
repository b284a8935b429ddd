"""OpenAI's Decisions API, `POST /v1/decisions`: a text, and questions about it.

The student answers a `choice` among its labels. What it was taught is in its weights, so instructions and descriptions
are not read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, WithJsonSchema, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from service.compat.choices import check_questions, decided, refuse_other_kinds, stable, variant_named
from service.compat.errors import OpenAIErrorBody
from service.compat.protocol import ProtocolRouter, json_response
from service.http.body import read_json
from service.http.context import context_of
from service.http.fast_route import FastRoute
from service.http.openapi import EXAMPLE, Text
from service.inference import dataplane
from service.settings import Settings
from service.state import state_of

_IGNORED = "Not read."


_ONE = TypeAdapter(Text).json_schema()
_PART = {
    "type": "object",
    "properties": {"type": {"type": "string", "const": "input_text"}, "text": _ONE},
    "required": ["type", "text"],
}
_CONTENT = {"anyOf": [_ONE, {"type": "array", "items": _PART, "minItems": 1, "maxItems": 1}]}
_MESSAGE = {
    "type": "object",
    "properties": {"role": {"type": "string", "const": "user"}, "content": _CONTENT},
    "required": ["role", "content"],
}
_INPUT: JsonSchemaValue = {"anyOf": [_ONE, {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": 1}]}
"""The JSON schema of what is read, which is not that of the text in it."""


def _text_in(given: Any) -> Any:
    """Take the text out of a single message; return what is no list for the validator to read or refuse.

    Raises PydanticCustomError for other messages.
    """
    match given:
        case [{"role": "user", "content": str(text) | [{"type": "input_text", "text": str(text)}]}]:
            return text
        case list():
            raise PydanticCustomError(
                "input", "send the text as a string, or as one user message with one text: this model reads one text"
            )
    return given


class DecisionChoice(BaseModel):
    """A label."""

    model_config = ConfigDict(extra="forbid", strict=True)

    value: str
    description: Any = Field(default=None, description=_IGNORED)


class DecisionQuestion(BaseModel):
    """The student's question: a choice among its labels."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["choice"]
    name: str | None = Field(default=None, description="Repeated in the answer.")
    instructions: Any = Field(default=None, description=_IGNORED)
    choices: Annotated[list[DecisionChoice], Field(min_length=2)] = Field(
        description="All labels of the bundle, in any order."
    )


class DecisionsRequest(BaseModel):
    """A request of OpenAI's client."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(
        default="default", description="The bundle's name, or any other, such as `gpt-6-luna`: the answer has the name."
    )
    input: Annotated[Text, BeforeValidator(_text_in), WithJsonSchema(_INPUT)] = Field(
        description="A text, or a list of one user message with one text."
    )
    questions: Annotated[list[Annotated[DecisionQuestion, BeforeValidator(refuse_other_kinds)]], Field(min_length=1)]
    prompt_cache_key: Any = Field(default=None, description=_IGNORED)
    prompt_cache_options: Any = Field(default=None, description=_IGNORED)
    safety_identifier: Any = Field(default=None, description=_IGNORED)

    @model_validator(mode="before")
    @classmethod
    def _in_this_format(cls, value: Any) -> Any:
        if isinstance(value, dict) and "state" in value and "input" not in value:
            raise PydanticCustomError("format", "this is a request of System One; send it to /v1/systemone")
        return value


class ValueProbability(TypedDict):
    """A label and its calibrated probability."""

    value: str
    probability: float


class DecisionAnswer(TypedDict):
    """The answer to a question. `probabilities` are in the order of its choices; `confidence` is that of `choice`."""

    type: Literal["choice"]
    name: str | None
    choice: str
    confidence: float
    probabilities: list[ValueProbability]


class InputTokensDetails(TypedDict):
    """Tokens of a cache, which there is none of."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(TypedDict):
    """Tokens of a reasoning, which there is none of."""

    reasoning_tokens: int


class DecisionUsage(TypedDict):
    """The tokens that the student read."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class DecisionsResponse(TypedDict):
    """One answer per question, in order."""

    model: str
    answers: list[DecisionAnswer]
    usage: DecisionUsage


def create_router(settings: Settings) -> APIRouter:
    """Make the route."""
    router = ProtocolRouter(settings, OpenAIErrorBody, tags=["decisions"], route_class=FastRoute)
    choices = [{"value": "billing"}, {"value": "shipping"}]
    example = {
        "model": "default",
        "input": EXAMPLE,
        "questions": [{"type": "choice", "instructions": "Which team?", "choices": choices}],
    }
    router.add_post("/v1/decisions", decide, DecisionsResponse, DecisionsRequest, example=example)
    return router


async def decide(request: Request) -> Response:
    """Answer a choice among the student's labels, as OpenAI's Decisions API does."""
    context, models = context_of(request), state_of(request).models
    manifest = stable(models)
    asked = await read_json(context, DecisionsRequest, labels=len(manifest.labels))
    listed = [[choice.value for choice in question.choices] for question in asked.questions]
    options = [(f"questions[{index}].choices", values) for index, values in enumerate(listed)]
    check_questions(manifest, context.settings, options)
    variant = variant_named(models, asked.model)
    answer = await dataplane.classify(models, context, [asked.input], name="input", variant=variant)
    label, probabilities = decided(answer)
    tokens = answer.predictions[0].tokens
    response: DecisionsResponse = {
        "model": answer.manifest.name,
        "answers": [
            {
                "type": "choice",
                "name": question.name,
                "choice": label,
                "confidence": probabilities[label],
                "probabilities": [{"value": value, "probability": probabilities[value]} for value in values],
            }
            for question, values in zip(asked.questions, listed, strict=True)
        ],
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens,
        },
    }
    return json_response(response)
