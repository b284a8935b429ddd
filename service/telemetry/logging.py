"""Log lines as JSON on standard error, our own and those of libraries. No line contains the text of a request.

A logged error has its type, its traceback and its causes. Its message is logged only if it is our own or the operating
system's: the message of a library may repeat its input, which may be a text or a key.
"""

from __future__ import annotations

import logging
import sys
import traceback
from asyncio import AbstractEventLoop
from typing import Any

import structlog

from export.bundle.classifier import InferenceError
from export.bundle.format import BundleError
from service.errors import ServiceError, StartupError
from service.shadow.errors import ShadowError

logger = structlog.get_logger(__name__)

_SAFE_ERRORS = (ServiceError, StartupError, BundleError, InferenceError, ShadowError, OSError)
"""Errors whose messages contain no text of a request."""

_MAX_ERRORS = 10


def configure_logging(level: str = "info") -> None:
    """Log events from `level` on, one JSON object per line, with tracebacks as text and without local variables."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_exception,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.raiseExceptions = False  # else a line that cannot be written is reported with all of its arguments
    # Their routine lines repeat ours, and httpx and urllib3 log every URL.
    for name in ("uvicorn", "httpx", "httpcore", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # When it cannot parse a header in `OTEL_EXPORTER_OTLP_HEADERS`, it logs the whole header.
    logging.getLogger("opentelemetry.util.re").addFilter(_without_arguments)


def _without_arguments(record: logging.LogRecord) -> bool:
    """Cut the arguments from the message of a library."""
    record.msg, record.args = str(record.msg).partition("%s")[0].rstrip(" :"), ()
    return True


def log_loop_errors(loop: AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error in a callback, or in a task that nothing awaits: the exception handler of the event loop.

    The loop's default handler would log the arguments of the callback.
    """
    error = context.get("exception")
    if error is None:
        logger.error("event loop", what=str(context.get("message")).partition("<")[0].strip())
    else:
        logger.error("event loop: unforeseen error", exc_info=error)


def _add_exception(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace `exc_info` in the event by the description of the error."""
    given = event.pop("exc_info", None)
    error = given[1] if isinstance(given, tuple) else sys.exc_info()[1] if given is True else given
    if isinstance(error, BaseException):
        event["exception"] = describe(error)
    return event


def describe(error: BaseException) -> str:
    """Return the tracebacks of an error and of its causes, the first cause first."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain and len(chain) < _MAX_ERRORS:
        chain.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return "\n".join(_described(one) for one in reversed(chain))


def _described(error: BaseException) -> str:
    said = f": {error}" if isinstance(error, _SAFE_ERRORS) else ""
    parts = error.exceptions[:_MAX_ERRORS] if isinstance(error, BaseExceptionGroup) else ()
    own = "".join([*traceback.format_tb(error.__traceback__), type(error).__qualname__, said])
    return "\n".join([own, *(describe(part) for part in parts)])
