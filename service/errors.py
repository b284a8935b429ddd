"""Why a client gets no answer: a status and a code for each cause.

What a client is told of one is made in `http.error_responses`. Not for what stops the service from starting: that is
`StartupError`, which no client ever sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import ValidationError

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


def _field(location: tuple[int | str, ...]) -> str:
    """`("texts", 2)` as `texts[2]`; names come from the client, so they are cut."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:_SHOWN_NAME]}" for part in location)
    return name.lstrip(".") or "body"
