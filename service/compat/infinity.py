"""infinity's `POST /classify`: the native route hands over what has its key, `input`, instead of `text` or `texts`."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from service.compat.errors import OpenAIErrorBody
from service.compat.names import variant_in_body
from service.compat.reply import json_reply
from service.compat.scores import Activation, Scored, activated, ranked
from service.http.body import parse
from service.http.context import RequestContext
from service.http.openapi import Text
from service.inference import dataplane
from service.inference.registry import Models


class InfinityRequest(BaseModel):
    """A request as infinity's clients send it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Annotated[list[Text], Field(min_length=1)] = Field(
        description="The texts. For vLLM's reply, and for one text as such, there is `/v1/classify`."
    )
    model: str | None = Field(
        default=None,
        description="The bundle's name; absent, `default` or `default/not-specified` for whichever there is.",
    )
    raw_scores: bool = Field(default=False, description="Answer with logits.")


class Usage(TypedDict):
    """How many tokens the student read."""

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
    tokens = sum(prediction.tokens for prediction in answer.predictions)
    reply: InfinityResponse = {
        "object": "classify",
        "model": answer.manifest.name,
        "data": [ranked(labels, activated(prediction, activation)) for prediction in answer.predictions],
        "id": f"infinity-{context.request_id}",
        "created": int(time.time()),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return json_reply(reply)
