"""The Open Inference Protocol (KServe V2) over HTTP, as KServe's, Triton's and MLServer's clients speak it.

The input is one tensor of texts, BYTES of shape [N] or [N, 1]. The outputs that a request may choose are `label` and
`probabilities` (the default), `logits`, and `output`, which is that of MLServer's runtime for Hugging Face models.
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
from service.compat.open_inference.messages import (
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
from service.compat.open_inference.tensors import HEADER, read_strings, split, write_floats, write_strings
from service.compat.protocol import ProtocolRouter, json_response
from service.compat.scores import finite, order, ranked, rounded
from service.compat.texts import Column
from service.errors import InvalidRequestError
from service.http.body import check_items, parse
from service.http.context import context_of
from service.http.openapi import EXAMPLE
from service.inference import dataplane
from service.inference.dataplane import Predictions
from service.settings import Settings
from service.state import state_of

EXTENSIONS = ["binary_tensor_data", "classification", "schedule_policy"]

_HEADER = HEADER.lower().encode()
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_MLSERVER_INPUTS = ("args", "array_inputs")
_MLSERVER: tuple[OutputName, ...] = ("output",)
_DEFAULT: tuple[OutputName, ...] = ("label", "probabilities")


class _Binary(BaseModel):
    """Validates texts that followed the JSON as if they had been in it."""

    inputs: list[Column]


ModelEndpoint = Callable[[Request, str, str | None], Awaitable[Response]]
"""Handles a request for a model by its name and, if given, its version."""


def create_router(settings: Settings) -> APIRouter:
    """Make the routes."""
    router = ProtocolRouter(settings, KServeErrorBody, tags=["open inference"], prefix="/v2")
    router.add_get("", server, ServerMetadata)
    router.add_get("/health/live", live, Live)
    router.add_get("/health/ready", ready, Ready)
    codes = (404, 422, 503)
    for path, endpoint in _both("", metadata):
        router.add_get(path, endpoint, ModelMetadata, codes=codes, name="metadata")
    for path, endpoint in _both("/ready", model_ready):
        router.add_get(path, endpoint, ModelReady, codes=codes, name="model_ready")
    text = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE]}
    infer_codes = tuple(code for code in (404, *CODES) if code != 415)  # Triton's client sends no content type
    for path, endpoint in _both("/infer", infer):
        options: dict[str, Any] = {"codes": infer_codes, "other_types": _BINARY, "name": "infer"}
        router.add_post(path, endpoint, InferResponse, InferRequest, example={"inputs": [text]}, **options)
    return router


async def server(request: Request) -> Response:
    """Describe the server."""
    content: ServerMetadata = {"name": "reflux", "version": request.app.version, "extensions": EXTENSIONS}
    return json_response(content)


async def live(request: Request) -> Response:
    """Fail if this process must be replaced."""
    state_of(request).require_alive()
    content: Live = {"live": True}
    return json_response(content)


async def ready(request: Request) -> Response:
    """Fail unless requests can be sent here."""
    state_of(request).require_ready()
    content: Ready = {"ready": True}
    return json_response(content)


async def model_ready(request: Request, name: str, version: str | None) -> Response:
    """Fail unless requests for a model can be sent here."""
    state = state_of(request)
    variant_of(state.models, name, version)
    state.require_ready()
    content: ModelReady = {"name": name, "ready": True}
    return json_response(content)


async def metadata(request: Request, name: str, version: str | None) -> Response:
    """Describe the inputs and outputs of a model."""
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
    return json_response(content)


async def infer(request: Request, name: str, version: str | None) -> Response:
    """Classify the texts of a tensor. The body and the response may contain binary data."""
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
    return _response(asked, answer, context.request_id)


def _both(path: str, endpoint: ModelEndpoint) -> list[tuple[str, Callable[..., Any]]]:
    """Return the paths of a model's route without and with a version, and what handles each."""

    async def any_version(request: Request, name: str) -> Response:
        return await endpoint(request, name, None)

    async def one_version(request: Request, name: str, version: str) -> Response:
        return await endpoint(request, name, version)

    any_version.__doc__ = one_version.__doc__ = endpoint.__doc__
    return [(f"/models/{{name}}{path}", any_version), (f"/models/{{name}}/versions/{{version}}{path}", one_version)]


def _texts(tensor: InferInput, data: bytes, most: int) -> list[str]:
    """Return the texts of the input, from the JSON or from the binary `data`. Raises InvalidRequestError."""
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


def _response(asked: InferRequest, answer: Predictions, request_id: str) -> Response:
    default = _MLSERVER if asked.inputs[0].name in _MLSERVER_INPUTS else _DEFAULT
    outputs = asked.outputs or [InferOutput(name=name) for name in default]
    tensors: list[Tensor] = []
    binary: list[bytes] = []
    for output in outputs:
        tensor, values = _output(output, answer)
        chosen = output.parameters.binary_data
        if asked.parameters.binary_data_output if chosen is None else chosen:
            binary.append(write_floats(values) if isinstance(values, np.ndarray) else write_strings(values))
            tensor["parameters"] = {**tensor.get("parameters", {}), "binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = rounded(values.ravel()) if isinstance(values, np.ndarray) else values
        tensors.append(tensor)
    response: InferResponse = {
        "model_name": answer.manifest.name,
        "model_version": answer.manifest.version,
        "id": request_id if asked.id is None else asked.id,
        "outputs": tensors,
    }
    head = to_json(response)
    if not binary:
        return Response(head, media_type="application/json")
    headers = {HEADER: str(len(head))}
    return Response(b"".join([head, *binary]), headers=headers, media_type="application/octet-stream")


def _output(asked: InferOutput, answer: Predictions) -> tuple[Tensor, list[str] | Floats]:
    """Return an output's tensor without its data, and the data."""
    rows, labels = answer.predictions, answer.manifest.labels
    if asked.name == "label" or asked.name == "output":
        if asked.parameters.classification:
            raise InvalidRequestError(
                f"outputs: `{asked.name}` has no classes; request `classification` of `probabilities`"
            )
        best = [labels[row.best] for row in rows]
        if asked.name == "label":
            return {"name": "label", "shape": [len(rows)], "datatype": "BYTES"}, best
        texts = [json.dumps(ranked(labels, row.probabilities, 1)[0], ensure_ascii=False) for row in rows]
        parameters: dict[str, Any] = {"content_type": "hg_jsonlist"}
        return {"name": "output", "shape": [len(rows), 1], "datatype": "BYTES", "parameters": parameters}, texts
    values = finite(np.stack([row.probabilities if asked.name == "probabilities" else row.logits for row in rows]))
    if not asked.parameters.classification:
        return {"name": asked.name, "shape": list(values.shape), "datatype": "FP32"}, values
    classes = min(asked.parameters.classification, len(labels))
    listed = [f"{row[index]:f}:{index}:{labels[index]}" for row in values for index in order(row, classes)]
    return {"name": asked.name, "shape": [len(rows), classes], "datatype": "BYTES"}, listed
