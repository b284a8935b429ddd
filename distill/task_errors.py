"""Explain why a task file is refused: a line per error with the key, what was expected and what was given.

What is valid is said by the sections and by `Task`; this only words what pydantic found.
"""

from __future__ import annotations

import math
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from distill.strict_yaml import Document, masked, quoting_hint

_PRIVATE = frozenset({"teacher", "headers", "extra_body"})
"""Messages never show values under these keys: a secret may be there, on purpose or by mistake."""


def explain(error: ValidationError, document: Document) -> list[str]:
    """Return one line per error: the key's path, what was expected, what was given."""
    lines = []
    errors = error.errors(include_url=False)
    for item in errors:
        if item["type"] == "too_short" and any(_within(other["loc"], item["loc"]) for other in errors):
            continue  # it counts valid entries only, and the others have errors of their own
        keys = _key_path(item["loc"], document.data, missing=item["type"] == "missing")
        private = not _PRIVATE.isdisjoint(keys)
        where = ".".join(map(masked, keys) if private else keys)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key; remove it or correct its spelling"
        elif item["type"] == "missing":
            message = "missing; this key is required"
        elif item["type"] in _COLLECTIONS:
            message = _collection(item, private=private)
        elif item["type"] == "too_short":
            message = f"expected {item['ctx']['min_length']} or more entries, got {item['ctx']['actual_length']}"
        elif item["type"] == "union_tag_not_found":
            message = f"the key {item['ctx']['discriminator']} is missing"
        elif hint := _quoting(item, document):
            secret = private and not isinstance(item["input"], bool | None)
            message = "expected text, and YAML reads this as something else; quote it" if secret else hint
        elif not private and not isinstance(item["input"], dict):
            message = f"{message} (got {item['input']!r})"
        lines.append(f"{where}: {message}" if where else message)
    return lines


_COLLECTIONS = {
    **dict.fromkeys(("tuple_type", "list_type"), "expected a list"),
    **dict.fromkeys(("model_attributes_type", "dict_type"), "expected a mapping"),
}


def _collection(item: ErrorDetails, *, private: bool) -> str:
    """Say that a list or a mapping was expected; a list with what was given as its entry, as an example."""
    expected, given = _COLLECTIONS[item["type"]], item["input"]
    if private:
        return expected
    if expected != "expected a list" or given is None:
        return f"{expected} (got {given!r})"
    example = yaml.safe_dump([given], default_flow_style=True, allow_unicode=True, width=math.inf)
    return f"{expected}, such as {example.strip()}"


def _within(location: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(location) > len(outer) and location[: len(outer)] == outer


def _quoting(item: ErrorDetails, document: Document) -> str | None:
    """Return the remedy for an unquoted scalar where text was expected."""
    if item["type"] not in ("string_type", "path_type"):
        return None
    location, given = item["loc"], item["input"]
    if location[-1] == "[key]":
        return quoting_hint(given, document.key_spelling(location[:-2], given))
    return quoting_hint(given, document.spelling(location))


def _key_path(location: tuple[int | str, ...], data: Any, *, missing: bool) -> list[str]:
    """Return the keys of an error's location that are in the file, without pydantic's names of branches."""
    keys = []
    for part in location:
        # A mapping's key must be text here, since pydantic's 0 would equal the key False.
        keyed = isinstance(data, dict) and isinstance(part, str)
        held = range(len(data)) if isinstance(data, list) else data if keyed else ()
        if part in held:
            data = data[part]
            keys.append(str(part))
    return [*keys, str(location[-1])] if missing else keys
