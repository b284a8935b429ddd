"""What a probe tells, whoever asks."""

from __future__ import annotations

from pydantic import BaseModel


class Health(BaseModel):
    """A probe that succeeded; one that fails is an error of status 503."""

    status: str = "ok"


OK = Health()
