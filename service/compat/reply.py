"""Replies in JSON. They are typed dictionaries: to build models would take longer than a small student's run."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response
from pydantic_core import to_json


def json_reply(content: Any) -> Response:
    """A reply with JSON as its body. Numbers in `content` must be finite."""
    return Response(to_json(content), media_type="application/json")
