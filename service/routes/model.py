"""`GET /model` and `GET /gap`: what is served, and how far it is from its teacher."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from export.bundle.format import Manifest
from service.auth.access import Access
from service.http.openapi import failures
from service.inference.registry import Variant
from service.state import state_of

_ERRORS = failures(422, 503)

router = APIRouter(tags=["model"])


@dataclass(frozen=True, kw_only=True)
class Served(Manifest):
    """The manifest of a bundle, and who can use the service."""

    access: Access


@router.get("/model", response_model=Served, responses=_ERRORS)
async def model(request: Request, variant: Variant = Variant.STABLE) -> Response:
    """Return the manifest of the bundle (labels, version, teacher, gates, measurements) and who can use the service."""
    state = state_of(request)
    served = {**asdict(state.models.choose(variant).manifest), "access": state.access.model_dump()}
    return Response(json.dumps(served, ensure_ascii=False), media_type="application/json")


@router.get("/gap", responses=_ERRORS)
async def gap(request: Request, variant: Variant = Variant.STABLE) -> dict[str, Any]:
    """Return the live distillation gap with its interval, its evidence and its counts."""
    return state_of(request).models.choose(variant).gap()
