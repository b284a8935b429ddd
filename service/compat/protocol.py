"""What the adapters share: a router that documents the routes of one protocol, and JSON responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel
from pydantic_core import to_json

from service.compat.errors import CODES, Shape
from service.http.openapi import failures, request_body
from service.settings import Settings

Endpoint = Callable[..., Any]


class ProtocolRouter(APIRouter):
    """The routes of one protocol, whose errors have the shape `error_body`. `options` are those of APIRouter."""

    def __init__(self, settings: Settings, error_body: Shape, **options: Any) -> None:
        super().__init__(**options)
        self._settings, self._error_body = settings, error_body

    def add_get(
        self, path: str, endpoint: Endpoint, response: Any, *, codes: Sequence[int] = (503,), **options: Any
    ) -> None:
        """Add a GET route that answers with `response`, or with one of the error statuses `codes`."""
        errors = failures(*codes, shapes=(self._error_body,))
        self.add_api_route(path, endpoint, methods=["GET"], response_model=response, responses=errors, **options)

    def add_post(
        self,
        path: str,
        endpoint: Endpoint,
        response: Any,
        *requests: type[BaseModel],
        example: dict[str, Any],
        codes: Sequence[int] = CODES,
        other_types: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Add a POST route that reads one of `requests`; `other_types` describes bodies that are not only JSON."""
        body = request_body(self._settings, *requests, example=example)
        answers = failures(*codes, shapes=(self._error_body,))
        if other_types:
            body["content"] |= other_types
            answers[200] = {"content": other_types}
        options["openapi_extra"] = {"requestBody": body}
        self.add_api_route(path, endpoint, methods=["POST"], response_model=response, responses=answers, **options)


def json_response(content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Return `content` as JSON, with more `headers` if there are any; its numbers must be finite.

    The adapters give typed dictionaries: making models would take longer than a run of a small student.
    """
    return Response(to_json(content), headers=headers, media_type="application/json")
