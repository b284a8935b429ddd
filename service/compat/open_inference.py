"""The Open Inference Protocol (KServe V2) over HTTP, as KServe's, Triton's and MLServer's clients speak it.

One input of texts, BYTES of shape [N] or [N, 1]. Outputs, of which a request may choose: `label` and `probabilities`,
as by default, `logits`, and `output`, which is what MLServer's runtime for Hugging Face models gives.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from math import prod
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from export.bundle.classifier import Floats
from export.bundle.format import Manifest
from service.compat.errors import CODES, KServeErrorBody
from service.compat.names import served, variant_of
from service.compat.open_inference_types import (
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    Live,
    ModelMetadata,
    ModelReady,
    OutputName,
    Ready,
    ServerMetadata,
    Tensor,
    TensorMetadata,
)
from service.compat.reply import json_reply
from service.compat.scores import finite, order, ranked, rounded
from service.compat.tensors import HEADER, read_strings, split, write_floats, write_strings
from service.compat.texts import Column
from service.errors import InvalidRequestError, NotReadyError
from service.http.body import check_items, parse
from service.http.context import context_of
from service.http.openapi import EXAMPLE, failures, request_body
from service.inference import dataplane
from service.inference.dataplane import Predictions
from service.settings import Settings
from service.state import State, state_of

EXTENSIONS = ["binary_tensor_data", "classification", "schedule_policy"]

_HEADER = HEADER.lower().encode()
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_MLSERVER_INPUTS = ("args", "array_inputs")
_MLSERVER: tuple[OutputName, ...] = ("output",)
_USUAL: tuple[OutputName, ...] = ("label", "probabilities")


class _Binary(BaseModel):
    """Texts that came after the JSON."""

    inputs: list[Column]


Versioned = Callable[[Request, str, str | None], Awaitable[Response]]


def create_router(settings: Settings) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/v2", tags=["open inference"])
    unready = failures(503, shapes=(KServeErrorBody,))
    for path, endpoint, model in (
        ("", server, ServerMetadata),
        ("/health/live", live, Live),
        ("/health/ready", ready, Ready),
    ):
        router.add_api_route(path, endpoint, methods=["GET"], response_model=model, responses=unready)
    for path, of_model, response in (("", metadata, ModelMetadata), ("/ready", model_ready, ModelReady)):
        _add(
            router,
            path,
            of_model,
            methods=["GET"],
            response_model=response,
            responses=failures(404, 422, 503, shapes=(KServeErrorBody,)),
        )
    text = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE]}
    body = request_body(settings, InferRequest, example={"inputs": [text]})
    body["content"] |= _BINARY
    codes = [404, *CODES]
    codes.remove(415)  # Triton's client says nothing of what it sends
    described = failures(*codes, shapes=(KServeErrorBody,)) | {200: {"content": _BINARY}}
    _add(
        router,
        "/infer",
        infer,
        methods=["POST"],
        response_model=InferResponse,
        responses=described,
        openapi_extra={"requestBody": body},
    )
    return router


async def server(request: Request) -> Response:
    """Tell what the server is."""
    content: ServerMetadata = {"name": "reflux", "version": request.app.version, "extensions": EXTENSIONS}
    return json_reply(content)


async def live(request: Request) -> Response:
    """Tell whether this process is worth keeping."""
    if not state_of(request).models.alive:
        raise NotReadyError("the inference threads ended or are stuck; replace this process")
    content: Live = {"live": True}
    return json_reply(content)


async def ready(request: Request) -> Response:
    """Tell whether to send requests here."""
    _require_ready(state_of(request))
    content: Ready = {"ready": True}
    return json_reply(content)


async def model_ready(request: Request, name: str, version: str | None) -> Response:
    """Tell whether to send requests for a model."""
    state = state_of(request)
    variant_of(state.models, name, version)
    _require_ready(state)
    content: ModelReady = {"name": name, "ready": True}
    return json_reply(content)


async def metadata(request: Request, name: str, version: str | None) -> Response:
    """Tell what a model takes and gives."""
    models = state_of(request).models
    variant = variant_of(models, name, version)
    manifests = served(models)
    content: ModelMetadata = {
        "name": name,
        "versions": sorted({manifest.version for manifest in manifests.values() if manifest.name == name}),
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": _output_metadata(manifests[variant or next(iter(manifests))]),
    }
    return json_reply(content)


async def infer(request: Request, name: str, version: str | None) -> Response:
    """Classify the texts of a tensor. The body may have binary data, and so may the reply; see the protocol."""
    context, models = context_of(request), state_of(request).models
    variant = variant_of(models, name, version)
    text, data = split(await context.body(), context.headers.get(_HEADER))
    check_items(text, context.settings)
    asked = parse(text, InferRequest)
    texts = _texts(asked.inputs[0], data, context.settings.max_texts)
    timeout = asked.parameters.timeout
    answer = await dataplane.classify(
        models,
        context,
        texts,
        name="inputs[0].data",
        timeout_seconds=timeout / 1e6 if timeout else None,
        variant=variant,
    )
    return _reply(asked, answer, context.request_id)


def _require_ready(state: State) -> None:
    if not state.ready:
        raise NotReadyError("not loaded, not working or stopping")


def _add(router: APIRouter, path: str, endpoint: Versioned, **options: Any) -> None:
    """Add the route of a model, and that of a version of it."""

    async def any_version(request: Request, name: str) -> Response:
        return await endpoint(request, name, None)

    async def one_version(request: Request, name: str, version: str) -> Response:
        return await endpoint(request, name, version)

    for prefix, function in (("/models/{name}", any_version), ("/models/{name}/versions/{version}", one_version)):
        function.__doc__ = endpoint.__doc__
        router.add_api_route(prefix + path, function, name=endpoint.__name__, **options)


def _texts(tensor: InferInput, data: bytes, most: int) -> list[str]:
    """The texts of the input, wherever they are. Raises InvalidRequestError."""
    size = tensor.parameters.binary_data_size if tensor.parameters is not None else None
    if (tensor.data is None) == (size is None):
        raise InvalidRequestError("inputs[0]: give exactly one of `data` and the parameter `binary_data_size`")
    if len(data) != (size or 0):
        raise InvalidRequestError(
            f"inputs[0]: {size or 0} bytes are declared after the JSON and {len(data)} are there; "
            f"`{HEADER}` must be the length of the JSON"
        )
    texts = _from_binary(data, most) if tensor.data is None else tensor.data.root
    if prod(tensor.shape) != len(texts) or tensor.shape[0] != len(texts):
        raise InvalidRequestError(
            f"inputs[0].shape: {tensor.shape}, with {len(texts)} texts; give [{len(texts)}] or [{len(texts)}, 1]"
        )
    return texts


def _from_binary(data: bytes, most: int) -> list[str]:
    try:
        return _Binary.model_validate({"inputs": [read_strings(data, "inputs[0]", most)]}).inputs[0].root
    except ValidationError as error:
        raise InvalidRequestError.from_validation(error) from None


def _output_metadata(manifest: Manifest) -> list[TensorMetadata]:
    classes = len(manifest.labels)
    return [
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
        {"name": "logits", "datatype": "FP32", "shape": [-1, classes]},
    ]


def _reply(asked: InferRequest, answer: Predictions, request_id: str) -> Response:
    usual = _MLSERVER if asked.inputs[0].name in _MLSERVER_INPUTS else _USUAL
    outputs = asked.outputs or [InferOutput(name=name) for name in usual]
    tensors: list[Tensor] = []
    binary: list[bytes] = []
    for output in outputs:
        tensor, values = _output(output, answer)
        if (
            output.parameters.binary_data is None and asked.parameters.binary_data_output
        ) or output.parameters.binary_data:
            binary.append(write_floats(values) if isinstance(values, np.ndarray) else write_strings(values))
            tensor["parameters"] = {**tensor.get("parameters", {}), "binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = rounded(values.ravel()) if isinstance(values, np.ndarray) else values
        tensors.append(tensor)
    reply: InferResponse = {
        "model_name": answer.manifest.name,
        "model_version": answer.manifest.version,
        "id": request_id if asked.id is None else asked.id,
        "outputs": tensors,
    }
    head = to_json(reply)
    if not binary:
        return Response(head, media_type="application/json")
    headers = {HEADER: str(len(head))}
    return Response(b"".join([head, *binary]), headers=headers, media_type="application/octet-stream")


def _output(asked: InferOutput, answer: Predictions) -> tuple[Tensor, list[str] | Floats]:
    """A tensor without its data, and the data."""
    rows, labels = answer.predictions, answer.manifest.labels
    if asked.name == "label" or asked.name == "output":
        if asked.parameters.classification:
            raise InvalidRequestError(
                f"outputs: `{asked.name}` has no classes; ask `classification` of `probabilities`"
            )
        best = [labels[row.best] for row in rows]
        if asked.name == "label":
            return {"name": "label", "shape": [len(rows)], "datatype": "BYTES"}, best
        texts = [json.dumps(ranked(labels, row.probabilities, 1)[0], ensure_ascii=False) for row in rows]
        shown: dict[str, Any] = {"content_type": "hg_jsonlist"}
        return {"name": "output", "shape": [len(rows), 1], "datatype": "BYTES", "parameters": shown}, texts
    values = finite(np.stack([row.probabilities if asked.name == "probabilities" else row.logits for row in rows]))
    if not asked.parameters.classification:
        return {"name": asked.name, "shape": list(values.shape), "datatype": "FP32"}, values
    classes = min(asked.parameters.classification, len(labels))
    listed = [f"{row[index]:f}:{index}:{labels[index]}" for row in values for index in order(row, classes)]
    return {"name": asked.name, "shape": [len(rows), classes], "datatype": "BYTES"}, listed
