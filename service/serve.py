"""The entry of `reflux serve`, of `python -m service`, and of `reflux worker`.

Modules of the service are imported in the functions, with garbage collection off: what is imported stays, so looking
for garbage among it would only delay the start.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.settings import Settings

_SWITCH_SECONDS = 0.0005
"""The longest that the event loop waits for a thread that computes in Python."""


def main(**given: Any) -> None:
    """Serve with the settings that are `given`, and those of the environment for the rest, until told to stop.

    When the start is refused, the reason is one line on standard error, and the exit status is 1.
    """
    gc.disable()  # until the server listens
    from service.errors import StartupError
    from service.settings import load_settings

    try:
        serve(load_settings(**given))
    except StartupError as error:
        sys.exit(f"reflux refuses to start: {error}")


def work(**given: Any) -> None:
    """Ask the teacher about what other processes serve, with settings as `main`, until told to stop."""
    gc.disable()
    from service.errors import StartupError
    from service.settings import load_settings

    try:
        # Nothing is classified, so nothing is measured, and no request has to be waited for at the end.
        unused = {"workers": 0, "threads": 1, "batch_tokens": 0, "drain_seconds": 0.0, "idle_grace_seconds": 0.0}
        settings = load_settings(**given, **unused)
        if not settings.shadow.enabled or settings.shadow.database is None:
            raise StartupError(
                "a worker needs REFLUX_SHADOW__ENABLED=true and REFLUX_SHADOW__DATABASE, those of the processes that "
                "serve; a single process needs no worker"
            )
        # The others' environment may say that they do not ask.
        asking = settings.shadow.model_copy(update={"ask": True})
        serve(settings.model_copy(update={"shadow": asking}), worker=True)
    except StartupError as error:
        sys.exit(f"reflux refuses to start: {error}")


def serve(settings: Settings, *, worker: bool = False) -> None:
    """Serve until told to stop; a `worker` classifies nothing.

    Raises StartupError when the address, the bundle or the shadow do not fit.
    """
    import asyncio
    import contextlib

    import uvloop

    from service.app import create_app, create_monitoring_app, create_worker_app
    from service.server.lifecycle import Monitoring, Server, bind
    from service.telemetry.logging import configure_logging

    configure_logging(settings.log_level)
    sys.setswitchinterval(_SWITCH_SECONDS)
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(bind(settings.host, settings.port))
        beside = None
        if settings.metrics_port is not None:
            beside = sockets.enter_context(bind(settings.host, settings.metrics_port, "metrics_port"))
        runner = sockets.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        app = create_worker_app(settings) if worker else create_app(settings)
        monitoring = Monitoring(create_monitoring_app(app.state.reflux), beside) if beside is not None else None
        runner.run(Server(app, settings, monitoring).serve([listener]))
