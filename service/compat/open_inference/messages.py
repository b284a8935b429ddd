"""The messages of the Open Inference Protocol over HTTP: requests and responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from service.compat.texts import Column

OutputName = Literal["label", "probabilities", "logits", "output"]


class _Lenient(BaseModel):
    """A message whose unknown keys are ignored, as the protocol demands for parameters."""

    model_config = ConfigDict(extra="ignore", strict=True)


class InputParameters(_Lenient):
    """The parameters of the input."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The size in bytes of its data, which then follows the JSON."
    )


class InferInput(_Lenient):
    """The input tensor: the texts."""

    name: Literal["text", "args", "array_inputs"] = Field(
        description="`text`, or one of MLServer's names, which are answered with its `output` by default."
    )
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=2)] = Field(
        description="[N] or [N, 1]."
    )
    datatype: Literal["BYTES"]
    data: Column | None = None
    parameters: InputParameters | None = None


class OutputParameters(_Lenient):
    """How an output is sent."""

    binary_data: bool | None = Field(default=None, description="Send it after the JSON, not within it.")
    classification: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Send only this many largest values, as `value:index:label`; 0 sends all."
    )


class InferOutput(_Lenient):
    """A requested output."""

    name: OutputName
    parameters: OutputParameters = OutputParameters()


class InferParameters(_Lenient):
    """The parameters of the request."""

    timeout: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        default=None, description="Time limit for the answer in microseconds; 0 is no limit."
    )
    binary_data_output: bool = Field(
        default=False, description="Send outputs after the JSON, unless their own parameters say otherwise."
    )


class InferRequest(_Lenient):
    """A request of the Open Inference Protocol."""

    id: str | None = Field(default=None, description="Repeated in the response.")
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[InferOutput], Field(max_length=16)] | None = Field(
        default=None, description="By default `label` and `probabilities`."
    )
    parameters: InferParameters = InferParameters()


class Tensor(TypedDict):
    """An output. Its `data`, in row-major order, is absent if it follows the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: NotRequired[dict[str, Any]]
    data: NotRequired[list[str] | list[float]]


class InferResponse(TypedDict):
    """A response of the Open Inference Protocol."""

    model_name: str
    model_version: str
    id: str
    outputs: list[Tensor]


class Live(TypedDict):
    """The server is alive."""

    live: bool


class Ready(TypedDict):
    """The server is ready for requests."""

    ready: bool


class ModelReady(Ready):
    """A model is ready for requests."""

    name: str


class ServerMetadata(TypedDict):
    """The server's name, version and extensions."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(TypedDict):
    """The name, type and shape of a tensor; -1 is any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(TypedDict):
    """The inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
