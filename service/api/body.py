"""Reading a JSON body into a model, with a clear error for each way in which it can fail."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from service.errors import InvalidRequestError, MalformedBodyError, UnsupportedMediaTypeError

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: Request, model: type[Model]) -> Model:
    """Read the body as `model`.

    Raises UnsupportedMediaTypeError, TooLargeError, MalformedBodyError or InvalidRequestError.
    """
    declared = request.headers.get("content-type", "")
    if not _is_json(declared):
        raise UnsupportedMediaTypeError(f"send JSON with `Content-Type: application/json`, not {declared[:64]!r}")
    body = await request.body()
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        if first["type"] == "json_invalid":
            raise MalformedBodyError(f"the body is not JSON in UTF-8: {first['msg']}") from None
        raise InvalidRequestError.from_validation(error) from None


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))
