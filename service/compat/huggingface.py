"""Hugging Face: the Inference API at `POST /`; Text Embeddings Inference (TEI) at `POST /`, `/predict` and `/info`.

The clients of both post to `/` if they are given only an address. The Inference API's client always sends `parameters`,
TEI's never does. `["a", "b"]` means two texts to the former, and one pair of texts to the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from export.bundle.format import Manifest
from service.compat.errors import TEIErrorBody
from service.compat.names import served
from service.compat.protocol import ProtocolRouter, json_response
from service.compat.scores import Activation, Scored, activated, ranked
from service.compat.texts import Texts, Unpaired
from service.errors import InvalidRequestError
from service.http.body import has_key, parse, read_body, read_json
from service.http.context import RequestContext, context_of
from service.http.fast_route import FastRoute
from service.http.health import OK, Health
from service.http.openapi import EXAMPLE
from service.inference import dataplane
from service.inference.dataplane import Predictions
from service.inference.registry import Models, Variant
from service.settings import Settings
from service.state import state_of

Ranking = list[Scored]
"""Labels with their scores, best first."""


class Options(BaseModel):
    """The options of a request to TEI."""

    model_config = ConfigDict(extra="forbid", strict=True)

    truncate: bool | None = Field(
        default=None,
        description="`false` refuses texts of more tokens than the student reads; otherwise they are cut at the side "
        "that the manifest's `truncation_side` names.",
    )
    truncation_direction: Literal["right", "Right"] = Field(
        default="right",
        description="Texts are cut at the end. Refused for a long text if the student cuts the beginning.",
    )
    raw_scores: bool = Field(default=False, description="Answer with logits.")

    @property
    def activation(self) -> Activation:
        """The activation that the scores have."""
        return "none" if self.raw_scores else "softmax"


class PredictRequest(Options):
    """A request of TEI's clients."""

    inputs: Unpaired = Field(description='One text, or several, each in its own list: `[["a"], ["b"]]`.')


class TextClassificationParameters(BaseModel):
    """The parameters of a request to the Inference API."""

    model_config = ConfigDict(extra="forbid", strict=True)

    function_to_apply: Activation | None = Field(
        default=None,
        description="`softmax` (the default) gives calibrated probabilities, `none` logits, `sigmoid` their sigmoids.",
    )
    top_k: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="The number of labels to list; all by default."
    )


class TextClassificationRequest(BaseModel):
    """A request of `huggingface_hub.InferenceClient`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Texts = Field(description="One text or several.")
    parameters: TextClassificationParameters


class Labels(TypedDict):
    """The labels and their indices."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class ModelType(TypedDict):
    """The kind of model: a classifier."""

    classifier: Labels


class Info(TypedDict):
    """TEI's description of itself; null for what is measured at each start, or does not exist here."""

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
    router = ProtocolRouter(settings, TEIErrorBody, tags=["huggingface"], route_class=FastRoute)
    router.add_post("/predict", predict, Ranking | list[Ranking], PredictRequest, example={"inputs": EXAMPLE})
    add_inference_route(router, "/")
    router.add_get("/info", info, Info)
    router.add_get("/health", health, Health)
    return router


def add_inference_route(router: ProtocolRouter, path: str) -> None:
    """Add a route for requests of the Inference API and of TEI."""
    requests = (PredictRequest, TextClassificationRequest)
    router.add_post(path, infer, Ranking | list[Ranking], *requests, example={"inputs": EXAMPLE})


async def predict(request: Request) -> Response:
    """Classify as TEI does: all labels, best first, in one list per text; a single text gives one list."""
    context = context_of(request)
    return await _predict(state_of(request).models, context, await read_json(context, PredictRequest))


async def infer(request: Request) -> Response:
    """Classify as the Inference API does if there are `parameters`, in one list per text; otherwise as TEI does."""
    context, models = context_of(request), state_of(request).models
    body = await read_body(context)
    if not has_key(body, "parameters"):
        return await _predict(models, context, parse(body, PredictRequest))
    asked = parse(body, TextClassificationRequest)
    answer = await dataplane.classify(models, context, asked.inputs.root, name="inputs")
    activation, top_k = asked.parameters.function_to_apply or "softmax", asked.parameters.top_k
    labels = answer.manifest.labels
    return json_response([ranked(labels, activated(one, activation), top_k) for one in answer.predictions])


async def info(request: Request) -> Response:
    """Describe the served model, as TEI does."""
    state = state_of(request)
    manifest, settings = served(state.models)[Variant.STABLE], state.settings
    labels = manifest.labels
    response: Info = {
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
    return json_response(response)


async def health(request: Request) -> Response:
    """Fail unless requests can be sent here."""
    state_of(request).require_ready()
    return json_response(OK)


def rankings(answer: Predictions, asked: Sequence[Options], name: str) -> list[Ranking]:
    """Return the labels of each text, best first.

    Raises InvalidRequestError for a truncated text whose options forbid that, or want the other end to be cut.
    """
    for index, (prediction, options) in enumerate(zip(answer.predictions, asked, strict=True)):
        if prediction.truncated:
            _check_truncation(answer.manifest, options, f"{name}[{index}]")
    pairs = zip(answer.predictions, asked, strict=True)
    return [ranked(answer.manifest.labels, activated(one, options.activation)) for one, options in pairs]


def _check_truncation(manifest: Manifest, options: Options, place: str) -> None:
    reason = f"{place}: more than the {manifest.max_tokens} tokens that this model reads"
    if options.truncate is False:
        raise InvalidRequestError(f"{reason}; shorten the text, or leave out `truncate`")
    if manifest.truncation_side != "right" and "truncation_direction" in options.model_fields_set:
        raise InvalidRequestError(
            f"{reason}, and it reads the last ones; shorten the text, or leave out `truncation_direction`"
        )


async def _predict(models: Models, context: RequestContext, asked: PredictRequest) -> Response:
    texts = asked.inputs.root
    answer = await dataplane.classify(models, context, texts, name="inputs")
    found = rankings(answer, [asked] * len(texts), "inputs")
    return json_response(found[0] if asked.inputs.single else found)
