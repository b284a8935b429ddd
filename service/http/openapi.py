"""Shared parts of the OpenAPI document: texts, request bodies with the limits in force, and error answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from service.http.error_body import ErrorBody
from service.settings import Settings

NOT_BLANK = r"\S"

EXAMPLE = "Where is my parcel?"

Text = Annotated[str, Field(pattern=NOT_BLANK, description="Not blank.")]

_COMPONENTS = "#/components/schemas/"
_RETRY_AFTER = {"description": "Seconds in which the queue should be empty.", "schema": {"type": "integer"}}


def request_body(settings: Settings, *models: type[BaseModel], example: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the body of an operation that reads one of several models, with the limits of this service.

    The `example` is what the interactive docs begin with; one generated from the schema would have every optional
    field, even those that exclude each other. FastAPI does not know the models, so their definitions are inlined.
    """
    schemas = [_whole(schema := model.model_json_schema(), schema.get("$defs", {}), settings) for model in models]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def failures(*codes: int, shapes: Sequence[type[BaseModel]] = (ErrorBody,)) -> dict[int | str, dict[str, Any]]:
    """Describe error answers: for each status a body of one of `shapes`.

    The shapes are only referred to, and `define` adds them: FastAPI would make a validator per status and route.
    """
    schemas = [{"$ref": f"{_COMPONENTS}{shape.__name__}"} for shape in shapes]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    described: dict[int | str, dict[str, Any]] = {
        code: {"content": {"application/json": {"schema": schema}}} for code in codes
    }
    if 429 in described:
        described[429]["headers"] = {"Retry-After": _RETRY_AFTER}
    return described


def define(document: dict[str, Any], shapes: Iterable[type[BaseModel]]) -> None:
    """Add to an OpenAPI document the schemas of those `shapes` that it refers to."""
    named = json.dumps(document["paths"])
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (shape, "serialization") for shape in shapes if f'"{_COMPONENTS}{shape.__name__}"' in named
    ]
    _, definitions = models_json_schema(wanted, ref_template=f"{_COMPONENTS}{{model}}")
    document.setdefault("components", {}).setdefault("schemas", {}).update(definitions.get("$defs", {}))


def _whole(node: Any, definitions: dict[str, Any], settings: Settings) -> Any:
    if isinstance(node, list):
        return [_whole(item, definitions, settings) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**definitions[node["$ref"].rpartition("/")[2]], **{key: node[key] for key in node if key != "$ref"}}
    done = {key: _whole(value, definitions, settings) for key, value in node.items() if key != "$defs"}
    if done.get("pattern") == NOT_BLANK:
        done.setdefault("maxLength", settings.max_characters)
    for least, most in (("minItems", "maxItems"), ("minProperties", "maxProperties")):
        if done.get(least) == 1:  # in a request, only lists of texts, or of questions about one, must have an item
            done.setdefault(most, settings.max_texts)
    return done
