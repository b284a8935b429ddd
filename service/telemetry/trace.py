"""The times of one request, gathered while it is answered. It needs no library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Trace:
    """What is known of one request."""

    request_id: str
    headers: Mapping[bytes, bytes]
    """Names in lower case; some say which trace the request belongs to."""

    began: float
    """A time of `time.monotonic()`."""

    texts: int | None = None
    version: str | None = None
    """That of the bundle which answers."""

    stages: dict[tuple[str, float, float], None] = field(default_factory=dict)
    """Name, begin and end, as times of `time.monotonic()`, in order."""

    def stage(self, name: str, began: float, ended: float) -> None:
        """Add a stage; texts that went through one together share it."""
        self.stages[name, began, ended] = None
