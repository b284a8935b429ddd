"""What is served and how far it is from its teacher: `GET /model` and `GET /gap`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from export.bundle import Manifest
from service.errors import ErrorBody
from service.state import state_of

router = APIRouter(tags=["model"])


@router.get("/model", response_model=Manifest, responses={503: {"model": ErrorBody}})
async def model(request: Request) -> Response:
    """Return the manifest of the bundle: its labels, version, teacher, gates and measurements."""
    return Response(state_of(request).require_engine().manifest.to_json(), media_type="application/json")


@router.get("/gap", responses={503: {"model": ErrorBody}})
async def gap(request: Request) -> dict[str, Any]:
    """Return the live distillation gap since this process started, with its interval."""
    return state_of(request).require_engine().shadow.gap()
