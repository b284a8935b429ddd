"""What the routes of one app share: its settings, its metrics, its models, its keys and its tracer."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request

from service.auth.access import Access, access
from service.auth.keys import Keys
from service.inference.registry import Models
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracer


@dataclass(slots=True)
class State:
    """`draining` is set by the server when it was told to stop: it still answers, and asks for no more."""

    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    models: Models = field(init=False)
    keys: Keys | None = field(init=False)
    tracer: Tracer | None = field(init=False)
    access: Access = field(init=False)
    draining: bool = False

    def __post_init__(self) -> None:
        settings = self.settings
        self.access = access(settings)
        self.models = Models(settings)
        self.keys = (
            Keys(settings.api_keys, self.metrics, metrics_open=settings.metrics_open) if settings.api_keys else None
        )
        self.tracer = Tracer() if settings.tracing else None

    @property
    def ready(self) -> bool:
        """Whether to send requests here."""
        return self.models.loaded and self.models.alive and not self.draining


def state_of(request: Request) -> State:
    """Return the state of the app that a request is for."""
    state: State = request.app.state.reflux
    return state
