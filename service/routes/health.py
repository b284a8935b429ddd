"""Probes for Kubernetes and metrics for Prometheus. No probe depends on a teacher, a database or the queue's length."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.http.health import OK, Health
from service.http.openapi import failures
from service.process.parts import interleaved
from service.state import state_of
from service.telemetry.metrics import render

router = APIRouter(tags=["health"])
metrics_router = APIRouter(tags=["health"])


@router.get("/livez", responses=failures(503))
async def livez(request: Request) -> Health:
    """Fail if this process must be replaced: an inference thread ended or is stuck."""
    state_of(request).require_alive()
    return OK


@router.get("/readyz", responses=failures(503))
async def readyz(request: Request) -> Health:
    """Fail unless requests can be sent here: the bundle is loaded and tested, and the service is not stopping."""
    state_of(request).require_ready()
    return OK


@router.get("/startupz", responses=failures(503))
async def startupz(request: Request) -> Health:
    """Fail until the bundle is loaded, warmed up and tested."""
    state_of(request).models.choose()
    return OK


@metrics_router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Return the metrics in the Prometheus text format."""
    state = state_of(request)
    await asyncio.gather(*(model.shadow.refresh() for model in state.models))
    for model in list(state.models):
        await interleaved(model.shadow.prepare_metrics())
    models = {model.manifest.version: model.registries for model in state.models}
    page = await interleaved(render(state.metrics.registry, models))
    return Response(page, headers={"content-type": CONTENT_TYPE_LATEST})
