"""The body of an error answer.

`{"error": {"code": "too_large", "message": "...", "request_id": "..."}}`
"""

from __future__ import annotations

from typing import Protocol, Self

from pydantic import BaseModel

from service.errors import ServiceError


class ErrorShape(Protocol):
    """A pydantic model of the body of an error in some protocol."""

    @classmethod
    def of(cls, error: ServiceError, request_id: str) -> BaseModel:
        """Return the body for `error`."""


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
        """Return the body for `error` in the native API."""
        return cls(error=ErrorDetail(code=error.code, message=str(error), request_id=request_id))
