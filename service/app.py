"""The ASGI app: settings in, routes and their shared state out. It does not listen; `serve` does that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from service import console
from service.auth.keys import Keys, describe_security
from service.compat.errors import SHAPES, Shape, error_shape
from service.compat.routers import create_routers
from service.errors import ServiceError
from service.http.error_body import ErrorBody
from service.http.error_responses import handle_error
from service.http.fast_route import fast_routes
from service.http.openapi import define
from service.routes import admin, ask, classify, docs, gap, health, model
from service.server import limits
from service.server.middleware import RequestMiddleware
from service.settings import Settings
from service.state import State

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

_ASKED = ("Authorization", "X-API-Key", "X-Request-ID", "X-Request-Timeout-Ms", "X-Reflux-Variant", "traceparent")
"""Headers that a web page of an allowed origin may send, beside those that any may."""

_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI's own sees paths, queries and what a validation refused; ours is `tracing` and `metrics`."""


class App(FastAPI):
    """FastAPI behind the one middleware, which is the outermost so that fast routes go past everything else."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        scope["app"] = self
        await self.state.edge(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Describe the routes, and which need a key; once, when it is first asked for."""
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
        state: State = self.state.reflux
        if state.keys is not None:
            describe_security(document, state.keys, _error_shape(state.settings))
        limits.describe(document, _error_shape(state.settings))
        define(document, SHAPES)
        return document


def create_app(settings: Settings) -> FastAPI:
    """Make the app, whose lifespan loads the bundle and starts shadowing.

    Raises StartupError when the keys or the tracing do not fit, the lifespan when the bundle or the shadow's settings
    do not.
    """
    state = State(settings)
    protocols = create_routers(settings) if settings.protocols else []
    return _create(state, [classify.create_router(settings, state.models), *_routers(settings)], protocols)


def create_worker_app(settings: Settings) -> FastAPI:
    """Make the app of a process that asks the teacher about what others serve: all but the routes that classify.

    Raises what `create_app` raises.
    """
    return _create(State(settings, classifies=False), _routers(settings), [])


def _create(state: State, routers: Sequence[APIRouter], protocols: Sequence[APIRouter]) -> FastAPI:
    settings = state.settings
    app = _assemble(
        state,
        [*routers, *protocols],
        state.keys,
        title="Reflux",
        summary="A distilled classifier, and how far it is from its teacher.",
        version=_version(),
        lifespan=_lifespan,
    )
    for router in routers:
        state.metrics.declare_routes(router.routes)
    for router in protocols:
        state.metrics.declare_routes(router.routes, durations=False)
    if settings.cors_origins:
        app.state.edge = CORSMiddleware(
            app.state.edge,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=_ASKED,
            expose_headers=("X-Request-ID", "Retry-After"),
        )
    return app


def create_monitoring_app(state: State) -> FastAPI:
    """Make the app of `metrics_port`: the probes and the metrics of a state that another app shares."""
    return _assemble(state, [health.router, health.metrics_router], None, openapi_url=None)


def _assemble(state: State, routers: Sequence[APIRouter], keys: Keys | None, **options: Any) -> App:
    app = App(
        redirect_slashes=False,  # a redirect would be an answer outside the one shape
        docs_url=None,  # FastAPI's loads its parts from elsewhere
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
        **options,
    )
    app.state.reflux = state
    for router in routers:
        app.include_router(router)
    for kind in (ServiceError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, handle_error)
    fast = fast_routes(route for router in routers for route in router.routes)
    app.state.requests = RequestMiddleware(super(App, app).__call__, state, fast, _error_shape(state.settings), keys)
    app.state.edge = app.state.requests
    app.state.limits = limits.ConnectionLimits(state.settings)
    return app


def _error_shape(settings: Settings) -> Callable[[str], Shape]:
    """How to tell who asks for a path of an error."""
    return error_shape if settings.protocols else lambda _: ErrorBody


def _routers(settings: Settings) -> list[APIRouter]:
    """Return the routes of every process, beside those that classify."""
    routers = [
        model.router,
        gap.router,
        ask.create_router(settings),
        health.router,
        docs.router,
    ]
    if settings.metrics_port is None:
        routers.append(health.metrics_router)
    if settings.admin:
        routers.append(admin.router)
    return [*routers, console.router] if settings.console else routers


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: State = app.state.reflux
    try:
        await state.models.reload()
        yield
    finally:
        await state.models.stop()
        if state.tracer is not None:
            await state.tracer.close()


def _version() -> str:
    try:
        return version("reflux")
    except PackageNotFoundError:  # run from a source tree
        return "0"
