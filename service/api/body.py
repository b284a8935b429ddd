"""Reading a JSON body into a model, with a clear error for each way in which it can fail."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from service.errors import InvalidRequestError, MalformedBodyError, UnsupportedMediaTypeError
from service.exchange import Exchange

Model = TypeVar("Model", bound=BaseModel)

JSON = b"application/json"


async def read_json(exchange: Exchange, model: type[Model]) -> Model:
    """Read the body as `model`.

    Raises what `read_body` and `parse` raise.
    """
    return parse(await read_body(exchange), model)


async def read_body(exchange: Exchange) -> bytes:
    """Read the body, which must be declared to be JSON. Raises UnsupportedMediaTypeError, TooLargeError."""
    declared = exchange.headers.get(b"content-type", b"")
    if declared != JSON and not _is_json(declared.decode("latin-1")):
        shown = declared[:64].decode("latin-1")
        raise UnsupportedMediaTypeError(f"send JSON with `Content-Type: application/json`, not {shown!r}")
    return await exchange.body()


def parse(body: bytes, model: type[Model]) -> Model:
    """Read JSON as `model`. Raises MalformedBodyError, InvalidRequestError."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedBodyError(f"the body is not JSON in UTF-8: {first['msg']}") from None
        raise InvalidRequestError.from_validation(error) from None


def has_key(body: bytes, key: str) -> bool:
    """Whether a body is a JSON object with this key; told without parsing where it cannot be."""
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
