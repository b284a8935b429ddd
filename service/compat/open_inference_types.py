"""The messages of the Open Inference Protocol over HTTP: what a request may have, and what replies are made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from service.compat.texts import Column

OutputName = Literal["label", "probabilities", "logits", "output"]


class _Lenient(BaseModel):
    """Parameters may have any name in this protocol: those that are not known here are ignored, as it says."""

    model_config = ConfigDict(extra="ignore", strict=True)


class InputParameters(_Lenient):
    """What is said of the input."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="How many bytes after the JSON are its data."
    )


class InferInput(_Lenient):
    """The texts."""

    name: Literal["text", "args", "array_inputs"] = Field(
        description="`text`; the others are MLServer's, and are answered with its `output` by default."
    )
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=2)] = Field(
        description="[N] or [N, 1]."
    )
    datatype: Literal["BYTES"]
    data: Column | None = None
    parameters: InputParameters | None = None


class OutputParameters(_Lenient):
    """How an output is sent."""

    binary_data: bool | None = Field(default=None, description="After the JSON, or within it.")
    classification: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Send the so many largest instead, best first, as `value:index:label`; 0 is not to."
    )


class InferOutput(_Lenient):
    """An output that is asked for."""

    name: OutputName
    parameters: OutputParameters = OutputParameters()


class InferParameters(_Lenient):
    """What is said of the request."""

    timeout: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        default=None, description="Microseconds within which the answer is of use; 0 is no limit."
    )
    binary_data_output: bool = Field(
        default=False, description="Send outputs after the JSON unless they say otherwise."
    )


class InferRequest(_Lenient):
    """A request of the Open Inference Protocol."""

    id: str | None = Field(default=None, description="Comes back with the reply.")
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[InferOutput], Field(max_length=16)] | None = Field(
        default=None, description="By default `label` and `probabilities`."
    )
    parameters: InferParameters = InferParameters()


class Tensor(TypedDict):
    """An output. Its `data`, row after row, is not there when it follows the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: NotRequired[dict[str, Any]]
    data: NotRequired[list[str] | list[float]]


class InferResponse(TypedDict):
    """A reply of the Open Inference Protocol."""

    model_name: str
    model_version: str
    id: str
    outputs: list[Tensor]


class Live(TypedDict):
    """That the server lives."""

    live: bool


class Ready(TypedDict):
    """That requests may be sent."""

    ready: bool


class ModelReady(Ready):
    """That requests for a model may be sent."""

    name: str


class ServerMetadata(TypedDict):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(TypedDict):
    """What a tensor is; -1 is any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(TypedDict):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
