"""`GET /model`: what is served, and who can use it."""

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
from service.state import State, state_of

_ERRORS = failures(422, 503)

router = APIRouter(tags=["model"])


@dataclass(frozen=True)
class ServedVariant:
    """A bundle in service: its version, and the share of the requests that it answers."""

    version: str
    share: float


@dataclass(frozen=True)
class Process:
    """What the process that answers does: whether it `classifies` texts, as all but workers do, or `asks` a teacher."""

    classifies: bool
    asks: bool


@dataclass(frozen=True, kw_only=True)
class Served(Manifest):
    """The manifest of a bundle, which bundles are in service, who can use the service, and what its process does.

    `answers_by_stage` counts the texts that each stage of a cascade answered in this process, and `teacher` those that
    the teacher did.
    """

    variants: dict[str, ServedVariant]
    answers_by_stage: dict[str, int]
    access: Access
    process: Process


@router.get("/model", response_model=Served, responses=_ERRORS)
async def model(request: Request, variant: Variant = Variant.STABLE) -> Response:
    """Return the manifest of the bundle (labels, version, teacher, gates, measurements), and who can use the service.

    `variants` has the bundles in service, and `process` says what the process that answers does.
    """
    state = state_of(request)
    chosen = state.models.choose(variant)
    served = {
        **json.loads(chosen.manifest.to_json()),
        "variants": _variants(state),
        "answers_by_stage": chosen.metrics.answers_by_stage,
        "access": state.access.model_dump(),
        "process": asdict(Process(state.classifies, chosen.shadow.asks)),
    }
    return Response(json.dumps(served, ensure_ascii=False), media_type="application/json")


def _variants(state: State) -> dict[str, dict[str, Any]]:
    versions = state.models.versions
    candidate = state.settings.candidate_share if Variant.CANDIDATE in versions else 0.0
    shares = {Variant.STABLE: 1.0 - candidate, Variant.CANDIDATE: candidate}
    return {name: asdict(ServedVariant(version, shares[Variant(name)])) for name, version in versions.items()}
