"""What the routes of one app share: its settings, its metrics and, once it has started, its engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request

from export.bundle import Manifest
from service.engine.pool import Pool
from service.errors import NotReadyError
from service.metrics import Metrics
from service.settings import Settings
from service.shadow.pipeline import ShadowPipeline


@dataclass(frozen=True, slots=True)
class Engine:
    """The bundle that is served, the threads that run it, and what is done with its answers afterwards."""

    manifest: Manifest
    pool: Pool
    shadow: ShadowPipeline


@dataclass(slots=True)
class State:
    """`draining` is set by the server when it was told to stop: it still answers, and asks for no more."""

    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    engine: Engine | None = None
    draining: bool = False

    @property
    def alive(self) -> bool:
        """Whether going on is worthwhile: nothing has started yet, or the inference threads run."""
        return self.engine is None or self.engine.pool.alive

    @property
    def ready(self) -> bool:
        """Whether to send requests here."""
        return self.engine is not None and self.engine.pool.alive and not self.draining

    def require_engine(self) -> Engine:
        """Return the engine. Raises NotReadyError before it is loaded."""
        if self.engine is None:
            raise NotReadyError("the bundle is not loaded yet; try again in a moment")
        return self.engine


def state_of(request: Request) -> State:
    """Return the state of the app that a request is for."""
    state: State = request.app.state.reflux
    return state
