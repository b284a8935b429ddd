"""infinity's `POST /classify`. The native route hands over requests with the key `input`, not `text` or `texts`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from export.bundle.classifier import Prediction
from service.compat.errors import OpenAIErrorBody
from service.compat.names import variant_in_body
from service.compat.protocol import json_response
from service.compat.scores import Activation, Scored, activated, ranked
from service.http.body import parse
from service.http.context import RequestContext
from service.http.openapi import Text
from service.inference import dataplane
from service.inference.registry import Models


class InfinityRequest(BaseModel):
    """A request of infinity's clients."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Annotated[list[Text], Field(min_length=1)] = Field(
        description="The texts. Use `/v1/classify` for vLLM's response, or to give one text without a list."
    )
    model: str | None = Field(
        default=None,
        description="The bundle's name; absent, `default` or `default/not-specified` for any.",
    )
    raw_scores: bool = Field(default=False, description="Answer with logits.")


class Usage(TypedDict):
    """The number of tokens that the student read."""

    prompt_tokens: int
    total_tokens: int


class InfinityResponse(TypedDict):
    """For each text all labels, best first."""

    object: Literal["classify"]
    model: str
    data: list[list[Scored]]
    id: str
    created: int
    usage: Usage


async def classify(models: Models, context: RequestContext, body: bytes) -> Response:
    """Answer a request in infinity's format."""
    context.error_body = OpenAIErrorBody.of
    asked = parse(body, InfinityRequest)
    variant = variant_in_body(models, asked.model)
    answer = await dataplane.classify(models, context, asked.input, name="input", variant=variant)
    labels = answer.manifest.labels
    activation: Activation = "none" if asked.raw_scores else "softmax"
    response: InfinityResponse = {
        "object": "classify",
        "model": answer.manifest.name,
        "data": [ranked(labels, activated(prediction, activation)) for prediction in answer.predictions],
        "id": f"infinity-{context.request_id}",
        "created": int(time.time()),
        "usage": usage_of(answer.predictions),
    }
    return json_response(response)


def usage_of(predictions: Sequence[Prediction]) -> Usage:
    """Return the tokens of a request's texts, as OpenAI's clients expect them."""
    tokens = sum(prediction.tokens for prediction in predictions)
    return {"prompt_tokens": tokens, "total_tokens": tokens}
