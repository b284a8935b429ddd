"""`GET /gap` and what belongs to it: how far the student is from its teacher, and whether it may stay."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from service.errors import NotReadyError
from service.http.openapi import failures
from service.inference.registry import Variant
from service.shadow.pipeline import ShadowError
from service.state import state_of

_ERRORS = failures(422, 503)

router = APIRouter(prefix="/gap", tags=["model"])

Window = Literal["1h", "6h", "1d", "7d", "since"]


@router.get("", responses=_ERRORS)
async def gap(request: Request, variant: Variant = Variant.STABLE, window: Window = "since") -> dict[str, Any]:
    """Return whether the student may stay, why, and the live distillation gap with its intervals and evidence.

    `verdict` is `stay`, `watch`, `leave` or `blind`. The gap, the counts and the bands are those of `window`; the
    verdict, the evidence and `windows` are not. Counts since deployment outlive a restart.
    """
    model = state_of(request).models.choose(variant)
    await model.shadow.refresh()
    return await model.gap(window)


@router.get("/history", responses=_ERRORS)
async def history(request: Request, variant: Variant = Variant.STABLE, window: Window = "7d") -> dict[str, Any]:
    """Return the gap over time: in steps of 5 minutes in windows of hours, and of an hour in those of days."""
    model = state_of(request).models.choose(variant)
    await model.shadow.refresh()
    return await model.gap_history(window)


@router.get("/disagreements", responses=_ERRORS)
async def disagreements(
    request: Request, variant: Variant = Variant.STABLE, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> dict[str, Any]:
    """Return the newest texts on which student and teacher chose different labels, redacted, the newest first."""
    try:
        return await state_of(request).models.choose(variant).shadow.disagreements(limit)
    except ShadowError as error:
        raise NotReadyError(str(error)) from error
