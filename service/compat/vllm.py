"""vLLM's classification, at SGLang's path `POST /v1/classify`; at `/classify` the same key `input` is infinity's."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from export.bundle.classifier import Prediction
from service.compat.errors import CODES, OpenAIErrorBody
from service.compat.infinity import Usage, usage_of
from service.compat.names import variant_in_body
from service.compat.protocol import ProtocolRouter, json_response
from service.compat.scores import activated, rounded
from service.compat.texts import Texts
from service.http.body import read_json
from service.http.context import context_of
from service.http.fast_route import FastRoute
from service.http.openapi import EXAMPLE
from service.inference import dataplane
from service.settings import Settings
from service.state import state_of


class VLLMRequest(BaseModel):
    """A request of vLLM's clients."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Texts = Field(description="One text or several.")
    model: str | None = Field(default=None, description="The bundle's name; absent or `default` for any.")
    use_activation: bool | None = Field(default=None, description="`false` answers with logits.")
    user: str | None = Field(default=None, description="Ignored.")


class Classified(TypedDict):
    """The answer to one text; `probs` are in the order of the bundle's labels."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class VLLMResponse(TypedDict):
    """One item per text, in order."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Classified]
    usage: Usage


def create_router(settings: Settings) -> APIRouter:
    """Make the route."""
    router = ProtocolRouter(settings, OpenAIErrorBody, tags=["vllm"], route_class=FastRoute)
    codes = (404, *CODES)
    router.add_post("/v1/classify", classify, VLLMResponse, VLLMRequest, example={"input": EXAMPLE}, codes=codes)
    return router


async def classify(request: Request) -> Response:
    """Classify as vLLM and SGLang do."""
    context, models = context_of(request), state_of(request).models
    asked = await read_json(context, VLLMRequest)
    variant = variant_in_body(models, asked.model)
    answer = await dataplane.classify(models, context, asked.input.root, name="input", variant=variant)
    raw, labels = asked.use_activation is False, answer.manifest.labels
    response: VLLMResponse = {
        "id": f"classify-{context.request_id}",
        "object": "list",
        "created": int(time.time()),
        "model": answer.manifest.name,
        "data": [_classified(index, one, labels, raw) for index, one in enumerate(answer.predictions)],
        "usage": usage_of(answer.predictions),
    }
    return json_response(response)


def _classified(index: int, prediction: Prediction, labels: tuple[str, ...], raw: bool) -> Classified:
    values = activated(prediction, "none" if raw else "softmax")
    label = labels[int(values.argmax())]
    return {"index": index, "label": label, "probs": rounded(values), "num_classes": len(labels)}
