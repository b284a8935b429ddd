"""The ASGI app: settings in, routes and their shared state out. It does not listen; `server` does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

import structlog
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException

from service import console
from service.api import classify, health, model
from service.engine.cpus import available_cpus
from service.engine.load import Loaded, load
from service.engine.pool import Pool
from service.errors import ServiceError, StartupError, handle_error
from service.middleware import RequestMiddleware
from service.settings import Settings
from service.shadow.errors import ShadowError
from service.shadow.pipeline import ShadowPipeline
from service.state import Engine, State

logger = structlog.get_logger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Make the app, whose lifespan loads the bundle and starts shadowing.

    The lifespan raises StartupError when the bundle or the shadow's settings do not fit.
    """
    state = State(settings)
    app = FastAPI(
        title="Reflux",
        summary="A distilled classifier, and how far it is from its teacher.",
        version=_version(),
        lifespan=_lifespan,
        redirect_slashes=False,  # a redirect would be an answer outside the one shape
        redoc_url=None,
    )
    app.state.reflux = state
    for router in _routers(settings):
        app.include_router(router)
        state.metrics.declare_routes(router.routes)
    for kind in (ServiceError, HTTPException):
        app.add_exception_handler(kind, handle_error)
    app.add_middleware(
        RequestMiddleware,
        metrics=state.metrics,
        max_body_bytes=settings.max_body_bytes,
        access_log=settings.access_log,
    )
    return app


def _routers(settings: Settings) -> list[APIRouter]:
    routers = [classify.create_router(settings), model.router, health.router]
    return [*routers, console.router] if settings.console else routers


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: State = app.state.reflux
    settings = state.settings
    started = time.perf_counter()
    loaded = await asyncio.to_thread(load, settings.bundle, threads=settings.threads)
    async with AsyncExitStack() as stack:
        shadow = await _start_shadow(loaded, state, stack)
        pool = await _start_pool(loaded, state, stack)
        state.metrics.declare_model(loaded.bundle.manifest)
        state.engine = Engine(loaded.bundle.manifest, pool, shadow)
        logger.info(
            "ready",
            model=loaded.bundle.manifest.name,
            version=loaded.bundle.manifest.version,
            seconds=round(time.perf_counter() - started, 3),
        )
        yield


async def _start_pool(loaded: Loaded, state: State, stack: AsyncExitStack) -> Pool:
    settings = state.settings
    workers = settings.workers or available_cpus()
    pool = Pool(
        loaded.classifier,
        state.metrics,
        workers=workers,
        queue_limit=settings.queue_limit,
        stall_seconds=settings.stall_seconds,
    )
    pool.start()
    stack.push_async_callback(pool.close)
    logger.info("inference", workers=workers, threads=settings.threads, queue_limit=settings.queue_limit)
    return pool


async def _start_shadow(loaded: Loaded, state: State, stack: AsyncExitStack) -> ShadowPipeline:
    shadow = ShadowPipeline(state.settings.shadow, loaded.bundle, loaded.reference, state.metrics.registry)
    try:
        await shadow.start()
    except ShadowError as error:
        raise StartupError(f"shadow: {error}") from error
    stack.push_async_callback(shadow.stop)
    return shadow


def _version() -> str:
    try:
        return version("reflux")
    except PackageNotFoundError:  # run from a source tree
        return "0"
