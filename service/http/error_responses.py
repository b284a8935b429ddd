"""Turns any error into an answer: a status, headers, and a body in the shape of the client's protocol."""

from __future__ import annotations

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.errors import InvalidRequestError, MethodNotAllowedError, NotFoundError, ServiceError
from service.http.context import RequestContext

logger = structlog.get_logger(__name__)


def error_response(request: Request, error: Exception) -> Response:
    """Return the answer to a request that failed with `error`."""
    known, content = failure(request.state.context, error, request.method)
    return Response(content, known.status_code, known.headers, media_type="application/json")


def failure(context: RequestContext, error: Exception, method: str) -> tuple[ServiceError, str]:
    """Return the error to answer with, and its body. The service's own faults are logged here, with a traceback."""
    known = error if isinstance(error, ServiceError) else _translate(error, method)
    if known.status_code == ServiceError.status_code:
        context.fault = error
        logger.error("request failed", code=known.code, request_id=context.request_id, exc_info=error)
    return known, context.error_body(known, context.request_id).model_dump_json()


async def handle_error(request: Request, error: Exception) -> Response:
    """Answer an exception: the one handler, for ServiceError and for the router's own errors."""
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
