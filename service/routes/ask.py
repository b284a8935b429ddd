"""`POST /gap/ask`: the teacher's answer to one text, for who compares it with the student's.

It spends money, so it is open only to who has a key, or on this machine alone. The answer enters no count.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from service.errors import ForbiddenError
from service.http.body import read_json
from service.http.context import context_of
from service.http.openapi import EXAMPLE, Text, failures, request_body
from service.inference.dataplane import check_limits
from service.inference.registry import Variant
from service.routes.classify import Score
from service.settings import Settings, variable
from service.state import state_of


class AskRequest(BaseModel):
    """A text to ask the teacher about."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text


class TeacherReply(BaseModel):
    """What the teacher said."""

    text: str = Field(description="The text as it was sent: redacted.")
    outcome: str = Field(description="`completed`, or why there is no label, as in `outcomes` of `GET /gap`.")
    top: list[Score] = Field(description="The most probable labels, best first; empty unless completed.")
    cost_usd: float | None = Field(description="What the answer cost, if that is known.")


def create_router(settings: Settings) -> APIRouter:
    """Return the route, documented with the limits of `settings`."""
    router = APIRouter(tags=["model"])
    router.add_api_route(
        "/gap/ask",
        ask,
        methods=["POST"],
        response_model=TeacherReply,
        responses=failures(400, 403, 413, 415, 422, 429, 503),
        openapi_extra={"requestBody": request_body(settings, AskRequest, example={"text": EXAMPLE})},
    )
    return router


async def ask(request: Request, variant: Variant = Variant.STABLE) -> dict[str, Any]:
    """Ask the teacher about one text, within the budget of shadowing. The answer enters no count.

    Six texts a minute, one at a time. It needs an API key, unless only this machine reaches the service.
    """
    state = state_of(request)
    if state.access.network and not state.access.keys:
        raise ForbiddenError(f"asking the teacher costs money, so it needs API keys: set {variable('api_keys')}")
    asked = await read_json(context_of(request), AskRequest)
    check_limits([asked.text], state.settings, "text")
    return await state.models.choose(variant).shadow.ask(asked.text)
