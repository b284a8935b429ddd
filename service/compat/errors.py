"""The body of an error in each protocol. Status, headers and message are the same in all of them."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from service.errors import InvalidRequestError, ServiceError
from service.http.error_body import ErrorBody

CODES = (400, 413, 415, 422, 429, 500, 503, 504)
"""The error statuses of a request with texts; one that names a model may also get 404."""

_TEI_TYPES = {
    "overloaded": "Overloaded",
    "rate_limited": "Overloaded",
    "deadline": "Overloaded",
    "inference_failed": "Backend",
    "internal": "Backend",
    "not_ready": "Unhealthy",
}

_SYSTEM_ONE_TYPES = {"unauthorised": "authentication_error", "rate_limited": "rate_limit_error"}
"""The words of the format where it has one; elsewhere the service's own code says more."""


class TEIErrorBody(BaseModel):
    """The error of Text Embeddings Inference; Hugging Face's client reads `error` too."""

    error: str
    error_type: str = Field(description="`Validation`, `Overloaded`, `Backend` or `Unhealthy`.")

    @classmethod
    def of(cls, error: ServiceError, request_id: str) -> Self:
        """Make the body of `error`."""
        return cls(error=str(error), error_type=_TEI_TYPES.get(error.code, "Validation"))


class KServeErrorBody(BaseModel):
    """The error of KServe, Triton and MLServer."""

    error: str

    @classmethod
    def of(cls, error: ServiceError, request_id: str) -> Self:
        """Make the body of `error`."""
        return cls(error=str(error))


class OpenAIErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str = Field(description="A stable word for programs, such as `overloaded`.")
    param: None = None
    code: int = Field(description="The status.")


class OpenAIErrorBody(BaseModel):
    """The error of OpenAI, infinity and vLLM."""

    error: OpenAIErrorDetail

    @classmethod
    def of(cls, error: ServiceError, request_id: str) -> Self:
        """Make the body of `error`."""
        return cls(error=OpenAIErrorDetail(message=str(error), type=error.code, code=error.status_code))


class SystemOneErrorDetail(BaseModel):
    """What went wrong."""

    error_type: str = Field(description="A stable word for programs, such as `overloaded`.")
    message: str


class SystemOneInvalid(BaseModel):
    """What does not fit the schema; `msg` begins with the field."""

    loc: list[str]
    msg: str
    type: str


class SystemOneErrorBody(BaseModel):
    """The error of TypeSafe and of servers of System One: a list where the body does not fit the schema."""

    detail: SystemOneErrorDetail | list[SystemOneInvalid]

    @classmethod
    def of(cls, error: ServiceError, request_id: str) -> Self:
        """Make the body of `error`."""
        if isinstance(error, InvalidRequestError):
            return cls(detail=[SystemOneInvalid(loc=["body"], msg=str(error), type=error.code)])
        kind = _SYSTEM_ONE_TYPES.get(error.code, error.code)
        return cls(detail=SystemOneErrorDetail(error_type=kind, message=str(error)))


Shape = type[ErrorBody] | type[TEIErrorBody] | type[KServeErrorBody] | type[OpenAIErrorBody] | type[SystemOneErrorBody]
"""An error body, the service's own or a protocol's."""

SHAPES: tuple[Shape, ...] = (ErrorBody, TEIErrorBody, KServeErrorBody, OpenAIErrorBody, SystemOneErrorBody)

_BY_PATH: dict[str, Shape] = {
    **dict.fromkeys(("/", "/predict", "/info", "/health", "/invocations", "/ping", "/vertex"), TEIErrorBody),
    "/v1/classify": OpenAIErrorBody,
    "/v1/decisions": OpenAIErrorBody,
    "/v1/systemone": SystemOneErrorBody,
    "/v1/models": KServeErrorBody,
    "/v2": KServeErrorBody,
}
_BY_PREFIX = ("/v1/models/", "/v2/")


def error_shape(path: str) -> Shape:
    """Return the error body that clients of a path expect, whether or not it has a route."""
    return KServeErrorBody if path.startswith(_BY_PREFIX) else _BY_PATH.get(path, ErrorBody)
