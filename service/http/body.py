"""Reads JSON bodies into models, with a clear error for each way in which that can fail."""

from __future__ import annotations

import re
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from service.errors import InvalidRequestError, MalformedBodyError, UnsupportedMediaTypeError
from service.http.context import RequestContext
from service.settings import Settings

Model = TypeVar("Model", bound=BaseModel)

JSON = b"application/json"

ITEMS_BESIDE = 1000
_ITEMS_PER_TEXT = 10
_ITEMS_PER_LABEL = 40
"""The most strings and commas of a body: so many per text, per label if a request lists them, and so many beside."""

_OPENS = re.compile(rb"\s*:\s*[\[{]")
_SHOWN_NAME = 64


async def read_json(context: RequestContext, model: type[Model], *, labels: int = 0) -> Model:
    """Read the body as `model`; takes and raises what `read_body` does, and raises what `parse` raises."""
    return parse(await read_body(context, labels=labels), model)


async def read_body(context: RequestContext, *, labels: int = 0) -> bytes:
    """Read a body that is declared to be JSON. `labels` is how many labels a request of the protocol lists.

    Raises UnsupportedMediaTypeError, TooLargeError, and what `check_items` raises.
    """
    declared = context.headers.get(b"content-type", b"")
    if declared != JSON and not _is_json(declared.decode("latin-1")):
        shown = declared[:64].decode("latin-1")
        raise UnsupportedMediaTypeError(f"send JSON with `Content-Type: application/json`, not {shown!r}")
    body = await context.body()
    check_items(body, context.settings, labels)
    return body


def check_items(body: bytes, settings: Settings, labels: int = 0) -> None:
    """Raise InvalidRequestError if a JSON body has more items than any request needs, before objects are made of them.

    It counts strings, and commas outside strings. Otherwise 1 MiB of `[1,1,…]` would make half a million errors.
    `labels` is how many labels a request of the protocol lists, once for each question.
    """
    most = _ITEMS_PER_TEXT * settings.max_texts + _ITEMS_PER_LABEL * labels + ITEMS_BESIDE
    if len(body) <= most or body.count(b'"') // 2 + body.count(b",") <= most:
        return
    left, name = most, "body"
    parts = body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"', 2 * most)
    for before, outside in zip([b"", *parts[1::2]], parts[::2], strict=False):
        if _OPENS.match(outside):
            name = before[:_SHOWN_NAME].decode(errors="replace")
        left -= 1 + outside.count(b",")
        if left < 0:
            remedy = (
                "ask fewer questions per request"
                if labels
                else f"send at most {settings.max_texts} texts per request, and nothing else"
            )
            raise InvalidRequestError(f"{name}: more than {most} items; {remedy}")


def parse(body: bytes, model: type[Model]) -> Model:
    """Read JSON as `model`. Raises MalformedBodyError, InvalidRequestError."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_input=False, include_context=False, include_url=False)
        if found[0]["type"] == "json_invalid":
            raise MalformedBodyError(f"the body is not JSON in UTF-8: {found[0]['msg']}") from None
        raise InvalidRequestError.from_errors(found) from None


def has_key(body: bytes, key: str) -> bool:
    """Return whether a body is a JSON object with `key`. It is parsed only if the key occurs in it at all."""
    if f'"{key}"'.encode() not in body:
        return False
    try:
        content = from_json(body)
    except ValueError:
        return False
    return isinstance(content, dict) and key in content


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))
