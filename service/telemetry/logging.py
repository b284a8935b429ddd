"""Log lines as JSON on standard error, ours and those of libraries alike. No line ever holds a request's text.

So of an error there are its kind, where it was raised, and what led to it; what it says only where that is ours or the
operating system's: the message of a library may repeat what it was given, be that a text or a key.
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

_SPOKEN = (ServiceError, StartupError, BundleError, InferenceError, ShadowError, OSError)
"""Errors whose messages hold no text of a request."""

_MOST_ERRORS = 10


def configure_logging(level: str = "info") -> None:
    """Log events of `level` and worse, one JSON object a line, with tracebacks as text and without local variables."""
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
    logging.raiseExceptions = False  # else a line that cannot be written is one with all that it was made of
    # Their routine lines repeat ours, and httpx and urllib3 name every URL.
    for name in ("uvicorn", "httpx", "httpcore", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of a header in `OTEL_EXPORTER_OTLP_HEADERS` that it cannot read by logging it whole.
    logging.getLogger("opentelemetry.util.re").addFilter(_without_arguments)


def _without_arguments(record: logging.LogRecord) -> bool:
    """Leave of a library's line what it always says."""
    record.msg, record.args = str(record.msg).partition("%s")[0].rstrip(" :"), ()
    return True


def log_loop_errors(loop: AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong in a callback or a task that nobody waits for; an event loop's exception handler.

    The loop's own message has the arguments of the callback in it.
    """
    error = context.get("exception")
    if error is None:
        logger.error("event loop", what=str(context.get("message")).partition("<")[0].strip())
    else:
        logger.error("event loop: unforeseen error", exc_info=error)


def _add_exception(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Put what `exc_info` stands for into the event, as text."""
    given = event.pop("exc_info", None)
    error = given[1] if isinstance(given, tuple) else sys.exc_info()[1] if given is True else given
    if isinstance(error, BaseException):
        event["exception"] = describe(error)
    return event


def describe(error: BaseException) -> str:
    """The traceback of an error and of those that led to it, the first of them first."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain and len(chain) < _MOST_ERRORS:
        chain.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return "\n".join(_described(one) for one in reversed(chain))


def _described(error: BaseException) -> str:
    said = f": {error}" if isinstance(error, _SPOKEN) else ""
    parts = error.exceptions[:_MOST_ERRORS] if isinstance(error, BaseExceptionGroup) else ()
    own = "".join([*traceback.format_tb(error.__traceback__), type(error).__qualname__, said])
    return "\n".join([own, *(describe(part) for part in parts)])
