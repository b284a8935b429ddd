"""The times of one request, gathered while it is answered, without any library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Trace:
    """What the spans of one request are made of."""

    request_id: str
    headers: Mapping[bytes, bytes]
    """Names in lower case; some name the trace that the request belongs to."""

    began: float
    """A time of `time.monotonic()`."""

    texts: int | None = None
    version: str | None = None
    """The version of the bundle that answers."""

    stages: dict[tuple[str, float, float], None] = field(default_factory=dict)
    """(name, begin, end) as times of `time.monotonic()`, in order; a dict, so that texts may share a stage."""

    def stage(self, name: str, began: float, ended: float) -> None:
        """Add a stage; the same stage of several texts counts once."""
        self.stages[name, began, ended] = None
