"""The answer of a health probe, in every protocol."""

from __future__ import annotations

from pydantic import BaseModel


class Health(BaseModel):
    """A probe that succeeded; a failed one is an error of status 503."""

    status: str = "ok"


OK = Health()
