"""The state that the routes of one app share: settings, metrics, models, keys and tracer."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request

from service.auth.access import Access, access
from service.auth.keys import Keys
from service.errors import NotReadyError
from service.inference.registry import Models
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracer


@dataclass(slots=True)
class State:
    """`draining` is set when the server is told to stop: it still answers, but is not ready for more.

    `classifies` is False of a worker, which has no route that classifies.
    """

    settings: Settings
    classifies: bool = True
    metrics: Metrics = field(default_factory=Metrics)
    models: Models = field(init=False)
    keys: Keys | None = field(init=False)
    tracer: Tracer | None = field(init=False)
    access: Access = field(init=False)
    draining: bool = False

    def __post_init__(self) -> None:
        settings = self.settings
        self.access = access(settings)
        self.models = Models(settings, classifies=self.classifies)
        self.keys = (
            Keys(settings.api_keys, self.metrics, metrics_open=settings.metrics_open) if settings.api_keys else None
        )
        self.tracer = Tracer() if settings.tracing else None

    @property
    def ready(self) -> bool:
        """Whether to send requests to this process."""
        return self.models.loaded and self.models.alive and not self.draining

    def require_alive(self) -> None:
        """Raise NotReadyError if the inference threads ended or are stuck."""
        if not self.models.alive:
            raise NotReadyError("the inference threads ended or are stuck; replace this process")

    def require_ready(self) -> None:
        """Raise NotReadyError unless requests should be sent to this process."""
        if not self.ready:
            raise NotReadyError("stopping" if self.draining else "not loaded or not working")


def state_of(request: Request) -> State:
    """Return the state of the app that handles a request."""
    state: State = request.app.state.reflux
    return state
