"""`POST /admin/reload`: serve the bundles that are on disk now. SIGHUP does the same and needs no key."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from service.errors import BundleRefusedError, StartupError
from service.http.openapi import failures
from service.state import state_of

_REFUSALS = failures(409)
_REFUSALS[409]["description"] = "`bundle_refused`, or `reloading` while another reload runs."
_REFUSALS[409]["headers"] = {
    "Retry-After": {"description": "For `reloading`: seconds until it should be done.", "schema": {"type": "integer"}}
}

router = APIRouter(prefix="/admin", tags=["admin"])


class Reloaded(BaseModel):
    """The bundles that are served after the reload."""

    versions: dict[str, str] = Field(description="The version of each variant, `stable` and perhaps `candidate`.")


@router.post("/reload", responses=_REFUSALS)
async def reload(request: Request) -> Reloaded:
    """Load the bundles again and swap those that changed, without losing a request. Answers when that is done.

    A bundle that fails its checks is refused, and the previous one stays in service. While another reload runs the
    answer is 409 at once.
    """
    try:
        return Reloaded(versions=await state_of(request).models.reload())
    except StartupError as error:
        raise BundleRefusedError(f"{error}; the previous bundles stay in service") from error
