"""Serving: settings in, and a process that listens until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import uvloop

from service.app import create_app, create_monitoring_app
from service.server.lifecycle import Monitoring, Server, bind
from service.settings import Settings
from service.telemetry.logging import configure_logging

_SWITCH_SECONDS = 0.0005
"""So long at most does the event loop wait for a thread that computes in Python."""


def serve(settings: Settings) -> None:
    """Serve until told to stop. Raises StartupError when the address, the bundle or the shadow do not fit."""
    configure_logging(settings.log_level)
    sys.setswitchinterval(_SWITCH_SECONDS)
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(bind(settings.host, settings.port))
        beside = None
        if settings.metrics_port is not None:
            beside = sockets.enter_context(bind(settings.host, settings.metrics_port, "metrics_port"))
        runner = sockets.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        app = create_app(settings)
        monitoring = Monitoring(create_monitoring_app(app.state.reflux), beside) if beside is not None else None
        runner.run(Server(app, settings, monitoring).serve([listener]))
