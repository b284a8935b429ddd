"""How each protocol's clients are told that there is no answer. Status, headers and message are the service's own."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from service.errors import ServiceError
from service.http.error_body import ErrorBody

CODES = (400, 413, 415, 422, 429, 500, 503, 504)
"""The statuses that a request with texts may get; where it names a model, 404 too."""

_TEI_TYPES = {
    "overloaded": "Overloaded",
    "rate_limited": "Overloaded",
    "deadline": "Overloaded",
    "inference_failed": "Backend",
    "internal": "Backend",
    "not_ready": "Unhealthy",
}


class TEIErrorBody(BaseModel):
    """Text Embeddings Inference's; Hugging Face's client reads `error` too."""

    error: str
    error_type: str = Field(description="`Validation`, `Overloaded`, `Backend` or `Unhealthy`.")

    @classmethod
    def of(cls, error: ServiceError, request_id: str) -> Self:
        """Tell a client of TEI."""
        return cls(error=str(error), error_type=_TEI_TYPES.get(error.code, "Validation"))


class KServeErrorBody(BaseModel):
    """KServe's, Triton's and MLServer's."""

    error: str

    @classmethod
    def of(cls, error: ServiceError, request_id: str) -> Self:
        """Tell a client of KServe V1 or of the Open Inference Protocol."""
        return cls(error=str(error))


class OpenAIErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str = Field(description="A stable word for programs, such as `overloaded`.")
    param: None = None
    code: int = Field(description="The status.")


class OpenAIErrorBody(BaseModel):
    """OpenAI's, which infinity and vLLM send."""

    error: OpenAIErrorDetail

    @classmethod
    def of(cls, error: ServiceError, request_id: str) -> Self:
        """Tell a client of infinity or vLLM."""
        return cls(error=OpenAIErrorDetail(message=str(error), type=error.code, code=error.status_code))


Shape = type[ErrorBody] | type[TEIErrorBody] | type[KServeErrorBody] | type[OpenAIErrorBody]
"""What the body of an error may be, the service's own first."""

SHAPES: tuple[Shape, ...] = (ErrorBody, TEIErrorBody, KServeErrorBody, OpenAIErrorBody)

_BY_PATH: dict[str, Shape] = {
    **dict.fromkeys(("/", "/predict", "/info", "/health", "/invocations", "/ping", "/vertex"), TEIErrorBody),
    "/v1/classify": OpenAIErrorBody,
    "/v1/models": KServeErrorBody,
    "/v2": KServeErrorBody,
}
_BY_PREFIX = ("/v1/models/", "/v2/")


def error_shape(path: str) -> Shape:
    """The body of an error that the clients of a path read, whatever there is at the path."""
    return KServeErrorBody if path.startswith(_BY_PREFIX) else _BY_PATH.get(path, ErrorBody)
