"""Errors that a client sees, each with an HTTP status and a code; and `StartupError`, which stops the service.

`http.error_responses` turns them into responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import ValidationError

_SHOWN_ERRORS = 3
_SHOWN_NAME = 64


class StartupError(Exception):
    """The service refuses to start; the message says why, and what to do."""


class ServiceError(Exception):
    """A request that fails. Subclasses set the status and the code; the message says what to do."""

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
    """No API key, or an unknown one."""

    status_code = 401
    code = "unauthorised"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"www-authenticate": "Bearer"})


class ForbiddenError(ServiceError):
    """The API key is known, but not allowed to do this."""

    status_code = 403
    code = "forbidden"


class NotFoundError(ServiceError):
    """Nothing is at this path."""

    status_code = 404
    code = "not_found"


class MethodNotAllowedError(ServiceError):
    """The path does not allow this method."""

    status_code = 405
    code = "method_not_allowed"


class TooSlowError(ServiceError):
    """The request took too long to arrive."""

    status_code = 408
    code = "too_slow"


class BundleRefusedError(ServiceError):
    """A bundle to be served does not pass its checks."""

    status_code = 409
    code = "bundle_refused"


class ReloadingError(ServiceError):
    """Another reload is running; `retry_after` is the number of seconds until it should be done."""

    status_code = 409
    code = "reloading"

    def __init__(self, *, retry_after: int) -> None:
        super().__init__(
            f"a reload is already running, which may miss the latest change; try again in {retry_after} s",
            headers={"retry-after": str(retry_after)},
        )


class TooLargeError(ServiceError):
    """The body is larger than the service accepts."""

    status_code = 413
    code = "too_large"


class UnsupportedMediaTypeError(ServiceError):
    """The declared content type is not JSON."""

    status_code = 415
    code = "unsupported_media_type"


class InvalidRequestError(ServiceError):
    """The body is JSON with invalid fields."""

    status_code = 422
    code = "invalid"

    @classmethod
    def from_validation(cls, error: ValidationError) -> InvalidRequestError:
        """Name the invalid fields and what each should be, without repeating their values."""
        return cls.from_errors(error.errors(include_input=False, include_context=False, include_url=False))

    @classmethod
    def from_errors(cls, found: Sequence[Any]) -> InvalidRequestError:
        """Do the same for pydantic's list of errors."""
        shown = "; ".join(f"{_field(item['loc'])}: {item['msg']}" for item in found[:_SHOWN_ERRORS])
        more = f"; and {len(found) - _SHOWN_ERRORS} more" if len(found) > _SHOWN_ERRORS else ""
        return cls(shown + more)


class OverloadedError(ServiceError):
    """The queue is full; `retry_after` is the number of seconds until it is expected to be empty."""

    status_code = 429
    code = "overloaded"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, headers={"retry-after": str(retry_after)})


class RateLimitedError(ServiceError):
    """The API key exceeded its rate; `retry_after` is the number of seconds until it may send again."""

    status_code = 429
    code = "rate_limited"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, headers={"retry-after": str(retry_after)})


class HeadTooLargeError(ServiceError):
    """The request line and the headers are larger than the service accepts."""

    status_code = 431
    code = "head_too_large"


class InferenceFailedError(ServiceError):
    """The graph returned no usable answer for a text."""

    code = "inference_failed"

    @classmethod
    def of(cls, index: int, count: int) -> InferenceFailedError:
        """Name the text at `index`, from 0, of the `count` texts of a request."""
        return cls(f"text {index + 1} of {count} could not be classified")


class NotReadyError(ServiceError):
    """The service is starting, stopping or broken; another replica may answer."""

    status_code = 503
    code = "not_ready"


class BusyError(ServiceError):
    """The service has no room for another request; it may have in a second."""

    status_code = 503
    code = "busy"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"retry-after": "1"})


class DeadlineError(ServiceError):
    """The client's deadline passed before there was an answer."""

    status_code = 504
    code = "deadline"


class VersionError(ServiceError):
    """The request's version of HTTP is not supported."""

    status_code = 505
    code = "http_version"


def _field(location: tuple[int | str, ...]) -> str:
    """Write `("texts", 2)` as `texts[2]`. Names come from the client, so they are cut."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:_SHOWN_NAME]}" for part in location)
    return name.lstrip(".") or "body"
