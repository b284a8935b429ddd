"""`POST /admin/reload`: serve the bundles as they lie on disk now. SIGHUP does the same, and needs no key."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from service.errors import BundleRefusedError, StartupError
from service.http.openapi import failures
from service.state import state_of

_REFUSALS = failures(409)
_REFUSALS[409]["description"] = "`bundle_refused`, or `reloading` while another reload runs."
_REFUSALS[409]["headers"] = {
    "Retry-After": {"description": "Of `reloading`: seconds until that should be done.", "schema": {"type": "integer"}}
}

router = APIRouter(prefix="/admin", tags=["admin"])


class Reloaded(BaseModel):
    """What is served now."""

    versions: dict[str, str] = Field(description="The version of each variant, `stable` and perhaps `candidate`.")


@router.post("/reload", responses=_REFUSALS)
async def reload(request: Request) -> Reloaded:
    """Load the bundles again and swap those that changed, with no request lost; answers when that is done.

    A bundle that does not pass its checks is refused, and what was served is served still. While another reload runs
    the answer is 409 at once: requests do not wait for one another.
    """
    try:
        return Reloaded(versions=await state_of(request).models.reload())
    except StartupError as error:
        raise BundleRefusedError(f"{error}; what was served before is served still") from error
