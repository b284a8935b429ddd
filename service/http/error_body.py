"""The shape in which a client is told that there is no answer.

`{"error": {"code": "too_large", "message": "...", "request_id": "..."}}`
"""

from __future__ import annotations

from typing import Protocol, Self

from pydantic import BaseModel

from service.errors import ServiceError


class ErrorShape(Protocol):
    """The body of an error in some protocol; a model of pydantic."""

    @classmethod
    def of(cls, error: ServiceError, request_id: str) -> BaseModel:
        """Tell a client of an error."""


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str
    """A stable word for programs, such as `too_large`."""

    message: str
    """A sentence for people: what was wrong, where, and what to do."""

    request_id: str
    """Also in the header `X-Request-ID` of the answer and in the service's log."""


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail

    @classmethod
    def of(cls, error: ServiceError, request_id: str) -> Self:
        """Tell a client of the native API."""
        return cls(error=ErrorDetail(code=error.code, message=str(error), request_id=request_id))
