"""Hugging Face: the Inference API at `POST /`, and Text Embeddings Inference (TEI) there, at `/predict` and `/info`.

Both post to `/` where a client was given no more than an address. The Inference API's client always sends `parameters`,
TEI's never does. To the former `["a", "b"]` is two texts, to the latter a pair.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from service.compat.errors import CODES, TEIErrorBody
from service.compat.names import served
from service.compat.reply import json_reply
from service.compat.scores import Activation, Scored, activated, ranked
from service.compat.texts import Texts, Unpaired
from service.errors import InvalidRequestError, NotReadyError
from service.http.body import has_key, parse, read_body, read_json
from service.http.context import RequestContext, context_of
from service.http.fast_route import FastRoute
from service.http.health import OK, Health
from service.http.openapi import EXAMPLE, failures, request_body
from service.inference import dataplane
from service.inference.dataplane import Predictions
from service.inference.registry import Models, Variant
from service.settings import Settings
from service.state import state_of

Ranking = list[Scored]
"""Labels with their scores, best first."""


class Options(BaseModel):
    """What may be asked of TEI beside its inputs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    truncate: bool | None = Field(
        default=None,
        description="`false` refuses texts of more tokens than the student reads; otherwise one end is left out, the "
        "manifest's `truncation_side`.",
    )
    truncation_direction: Literal["right", "Right"] = Field(
        default="right",
        description="The end is what is left out. Refused for a long text where the student leaves out the beginning.",
    )
    raw_scores: bool = Field(default=False, description="Answer with logits.")

    @property
    def activation(self) -> Activation:
        """What the scores are."""
        return "none" if self.raw_scores else "softmax"


class PredictRequest(Options):
    """A request as TEI's clients send it."""

    inputs: Unpaired = Field(description='One text, or each of several in a list of its own: `[["a"], ["b"]]`.')


class TextClassificationParameters(BaseModel):
    """What the Inference API may be asked."""

    model_config = ConfigDict(extra="forbid", strict=True)

    function_to_apply: Activation | None = Field(
        default=None,
        description="`softmax`, the default, gives calibrated probabilities, `none` logits, `sigmoid` each logit's.",
    )
    top_k: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="How many labels to list; all by default."
    )


class TextClassificationRequest(BaseModel):
    """A request as `huggingface_hub.InferenceClient` sends it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Texts = Field(description="One text or several.")
    parameters: TextClassificationParameters


class Labels(TypedDict):
    """The labels and their places."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class ModelType(TypedDict):
    """What kind of model it is."""

    classifier: Labels


class Info(TypedDict):
    """What TEI says of itself; null is what is measured here at each start, or what there is not."""

    model_id: str
    model_sha: str
    model_dtype: str
    served_model_name: str
    model_type: ModelType
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int | None
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int | None
    version: str
    sha: str | None
    docker_label: str | None


def create_router(settings: Settings) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["huggingface"], route_class=FastRoute)
    router.add_api_route(
        "/predict",
        predict,
        methods=["POST"],
        response_model=Ranking | list[Ranking],
        responses=failures(*CODES, shapes=(TEIErrorBody,)),
        openapi_extra={"requestBody": request_body(settings, PredictRequest, example={"inputs": EXAMPLE})},
    )
    add_inference_route(router, "/", settings)
    for path, endpoint, model in (("/info", info, Info), ("/health", health, Health)):
        router.add_api_route(
            path, endpoint, methods=["GET"], response_model=model, responses=failures(503, shapes=(TEIErrorBody,))
        )
    return router


def add_inference_route(router: APIRouter, path: str, settings: Settings) -> None:
    """Add a route that takes requests of the Inference API and of TEI."""
    body = request_body(settings, PredictRequest, TextClassificationRequest, example={"inputs": EXAMPLE})
    router.add_api_route(
        path,
        infer,
        methods=["POST"],
        response_model=Ranking | list[Ranking],
        responses=failures(*CODES, shapes=(TEIErrorBody,)),
        openapi_extra={"requestBody": body},
    )


async def predict(request: Request) -> Response:
    """Classify as TEI does: all labels, best first, in a list per text unless there is one text."""
    context = context_of(request)
    return await _predict(state_of(request).models, context, await read_json(context, PredictRequest))


async def infer(request: Request) -> Response:
    """Classify as the Inference API does where there are `parameters`, in a list per text; else as TEI does."""
    context, models = context_of(request), state_of(request).models
    body = await read_body(context)
    if not has_key(body, "parameters"):
        return await _predict(models, context, parse(body, PredictRequest))
    asked = parse(body, TextClassificationRequest)
    answer = await dataplane.classify(models, context, asked.inputs.root, name="inputs")
    activation, top_k = asked.parameters.function_to_apply or "softmax", asked.parameters.top_k
    return json_reply([ranked(answer.manifest.labels, activated(one, activation), top_k) for one in answer.predictions])


async def info(request: Request) -> Response:
    """Tell what is served, as TEI does."""
    state = state_of(request)
    manifest, settings = served(state.models)[Variant.STABLE], state.settings
    labels = manifest.labels
    content: Info = {
        "model_id": manifest.name,
        "model_sha": manifest.version,
        "model_dtype": manifest.variant,
        "served_model_name": manifest.name,
        "model_type": {
            "classifier": {
                "id2label": {str(index): label for index, label in enumerate(labels)},
                "label2id": {label: index for index, label in enumerate(labels)},
            }
        },
        "max_concurrent_requests": settings.queue_limit,
        "max_input_length": manifest.max_tokens,
        "max_batch_tokens": settings.batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_texts,
        "auto_truncate": True,
        "tokenization_workers": settings.workers,
        "version": request.app.version,
        "sha": None,
        "docker_label": None,
    }
    return json_reply(content)


async def health(request: Request) -> Response:
    """Tell whether to send requests here."""
    if not state_of(request).ready:
        raise NotReadyError("not loaded, not working or stopping")
    return json_reply(OK)


def rankings(answer: Predictions, asked: list[Options], name: str) -> list[Ranking]:
    """The labels of each text, best first.

    Raises InvalidRequestError for one that was truncated, and may not be, or not on that side.
    """
    most, side = answer.manifest.max_tokens, answer.manifest.truncation_side
    for index, (prediction, options) in enumerate(zip(answer.predictions, asked, strict=True)):
        if prediction.truncated and options.truncate is False:
            raise InvalidRequestError(
                f"{name}[{index}]: more than the {most} tokens that this model reads; send less, or not `truncate`"
            )
        if prediction.truncated and side != "right" and "truncation_direction" in options.model_fields_set:
            raise InvalidRequestError(
                f"{name}[{index}]: more than the {most} tokens that this model reads, of which it reads the last; "
                "send less, or not `truncation_direction`"
            )
    pairs = zip(answer.predictions, asked, strict=True)
    return [ranked(answer.manifest.labels, activated(one, options.activation)) for one, options in pairs]


async def _predict(models: Models, context: RequestContext, asked: PredictRequest) -> Response:
    texts = asked.inputs.root
    answer = await dataplane.classify(models, context, texts, name="inputs")
    found = rankings(answer, [asked] * len(texts), "inputs")
    return json_reply(found[0] if asked.inputs.single else found)
