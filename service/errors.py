"""What a client is told when there is no answer: one shape, and a status and a code for each cause.

`{"error": {"code": "too_large", "message": "...", "request_id": "..."}}`. Not for what stops the service from starting:
that is `StartupError`, which no client ever sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

if TYPE_CHECKING:
    from service.http.context import Exchange

logger = structlog.get_logger(__name__)

_SHOWN_ERRORS = 3
_SHOWN_NAME = 64


class StartupError(Exception):
    """The service refuses to start; the message says why and what to do."""


class ServiceError(Exception):
    """A request that gets no answer. A subclass fixes the status and the code, its message says what to do."""

    status_code: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = dict(headers or {})


class MalformedBodyError(ServiceError):
    """The body is not JSON."""

    status_code = 400
    code = "malformed"


class UnauthorisedError(ServiceError):
    """No API key, or one that is not known."""

    status_code = 401
    code = "unauthorised"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"www-authenticate": "Bearer"})


class ForbiddenError(ServiceError):
    """The API key is known, and not for this."""

    status_code = 403
    code = "forbidden"


class NotFoundError(ServiceError):
    """There is nothing at this path."""

    status_code = 404
    code = "not_found"


class MethodNotAllowedError(ServiceError):
    """The path exists, for another method."""

    status_code = 405
    code = "method_not_allowed"


class TooSlowError(ServiceError):
    """The request took too long to come."""

    status_code = 408
    code = "too_slow"


class BundleRefusedError(ServiceError):
    """A bundle that should be served does not pass its checks."""

    status_code = 409
    code = "bundle_refused"


class ReloadingError(ServiceError):
    """The bundles are being loaded already; `retry_after` is the number of seconds in which that should be done."""

    status_code = 409
    code = "reloading"

    def __init__(self, *, retry_after: int) -> None:
        super().__init__(
            f"the bundles are being loaded already, perhaps as they lay before; try again in {retry_after} s",
            headers={"retry-after": str(retry_after)},
        )


class TooLargeError(ServiceError):
    """The body is larger than the service reads."""

    status_code = 413
    code = "too_large"


class UnsupportedMediaTypeError(ServiceError):
    """The body is declared to be something other than JSON."""

    status_code = 415
    code = "unsupported_media_type"


class InvalidRequestError(ServiceError):
    """The body is JSON, with fields that do not fit."""

    status_code = 422
    code = "invalid"

    @classmethod
    def from_validation(cls, error: ValidationError) -> InvalidRequestError:
        """Name the fields and what each should be, without repeating what was sent in them."""
        return cls.from_errors(error.errors(include_input=False, include_context=False, include_url=False))

    @classmethod
    def from_errors(cls, found: Sequence[Any]) -> InvalidRequestError:
        """The same for pydantic's list of errors."""
        shown = "; ".join(f"{_field(item['loc'])}: {item['msg']}" for item in found[:_SHOWN_ERRORS])
        more = f"; and {len(found) - _SHOWN_ERRORS} more" if len(found) > _SHOWN_ERRORS else ""
        return cls(shown + more)


class OverloadedError(ServiceError):
    """The queue is full; `retry_after` is the number of seconds in which it is expected to be empty."""

    status_code = 429
    code = "overloaded"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, headers={"retry-after": str(retry_after)})


class RateLimitedError(ServiceError):
    """The API key has asked for more than its rate; `retry_after` is the number of seconds until it may ask again."""

    status_code = 429
    code = "rate_limited"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, headers={"retry-after": str(retry_after)})


class HeadTooLargeError(ServiceError):
    """The request line and the headers are larger than the service reads."""

    status_code = 431
    code = "head_too_large"


class InferenceFailedError(ServiceError):
    """The graph gave no usable answer for a text."""

    code = "inference_failed"

    @classmethod
    def of(cls, index: int, count: int) -> InferenceFailedError:
        """Name the text, counted from 0, of a request's `count` texts."""
        return cls(f"text {index + 1} of {count} could not be classified")


class NotReadyError(ServiceError):
    """The service is starting, stopping or broken; another replica may answer."""

    status_code = 503
    code = "not_ready"


class BusyError(ServiceError):
    """There is no room for another request at all; in a second there may be."""

    status_code = 503
    code = "busy"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"retry-after": "1"})


class DeadlineError(ServiceError):
    """The time that the client gave was over before there was an answer."""

    status_code = 504
    code = "deadline"


class VersionError(ServiceError):
    """The request is in a version of HTTP that is not spoken here."""

    status_code = 505
    code = "http_version"


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


def _field(location: tuple[int | str, ...]) -> str:
    """`("texts", 2)` as `texts[2]`; names come from the client, so they are cut."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:_SHOWN_NAME]}" for part in location)
    return name.lstrip(".") or "body"


def error_response(request: Request, error: Exception) -> Response:
    """Make the answer to a request that failed."""
    known, content = failure(request.state.exchange, error, request.method)
    return Response(content, known.status_code, known.headers, media_type="application/json")


def failure(exchange: Exchange, error: Exception, method: str) -> tuple[ServiceError, str]:
    """What a client is told of an error, and the body that tells it.

    Faults of the service are logged here, once, with their traceback.
    """
    known = error if isinstance(error, ServiceError) else _translate(error, method)
    if known.status_code == ServiceError.status_code:
        exchange.fault = error
        logger.error("request failed", code=known.code, request_id=exchange.request_id, exc_info=error)
    return known, exchange.error_body(known, exchange.request_id).model_dump_json()


async def handle_error(request: Request, error: Exception) -> Response:
    """Answer an exception: the one handler, for ServiceError and for what the router raises."""
    return error_response(request, error)


def _translate(error: Exception, method: str) -> ServiceError:
    if isinstance(error, HTTPException):
        if error.status_code == NotFoundError.status_code:
            return NotFoundError("there is nothing at this path; see /docs")
        if error.status_code == MethodNotAllowedError.status_code:
            allowed = (error.headers or {}).get("Allow", "")
            return MethodNotAllowedError(f"use {allowed} here, not {method}", headers=error.headers)
    if isinstance(error, RequestValidationError):
        return InvalidRequestError.from_errors(error.errors())
    return ServiceError("an error of the service; its log has the details under this request_id")
