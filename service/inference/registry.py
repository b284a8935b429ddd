"""The bundles in service: `stable`, and beside it a `candidate` where one is set. Each is loaded, swapped and released.

A model is a bundle with all that it needs to answer and to be compared with its teacher. Which of the two answers a
request is chosen here; how it answers is the runner's affair.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from export.bundle.format import Manifest
from export.bundle.providers import Device
from service.errors import InvalidRequestError, NotReadyError, ReloadingError, StartupError
from service.inference.autotune import Asked
from service.inference.load import Loaded, load
from service.inference.runner import Runner
from service.inference.scheduler import Scheduler
from service.process.cpus import available_cpus
from service.process.hugepages import use_huge_pages
from service.process.priority import give_way
from service.settings import Settings
from service.shadow.errors import ShadowError
from service.shadow.pipeline import ShadowPipeline
from service.telemetry.metrics import ModelMetrics

logger = structlog.get_logger(__name__)


class Variant(StrEnum):
    """The part that a bundle plays."""

    STABLE = "stable"
    CANDIDATE = "candidate"


class Model:
    """One loaded bundle: its runner, its shadow, its metrics, and how many requests it is answering."""

    def __init__(self, loaded: Loaded, settings: Settings, variant: Variant) -> None:
        self.manifest: Manifest = loaded.bundle.manifest
        self.loaded = loaded
        self._settings = settings
        self._variant = variant
        self._registry = CollectorRegistry()
        self.metrics = ModelMetrics(self._registry, self.manifest, variant)
        self.runner: Runner = _runner(loaded, settings, self.metrics)
        self._users = 0
        self._last_left: asyncio.Future[None] | None = None
        self._new_shadow()

    @property
    def registries(self) -> tuple[CollectorRegistry, CollectorRegistry]:
        """Where its metrics are: of inference, and of shadowing."""
        return self._registry, self._shadow_registry

    def enter(self) -> None:
        """Count a request that this model answers: it is not released before `leave`."""
        self._users += 1

    def leave(self) -> None:
        """Count a request that was answered."""
        self._users -= 1
        if not self._users and self._last_left is not None and not self._last_left.done():
            self._last_left.set_result(None)

    def gap(self) -> dict[str, Any]:
        """The body of `GET /gap`, of all that has been answered."""
        self.metrics.later.flush()
        return self.shadow.gap()

    async def start_shadow(self) -> None:
        """Begin to shadow, also anew after `shadow.stop`. Raises ShadowError."""
        if self.shadow.started:
            self._new_shadow()
        await self.shadow.start()

    async def stop_shadow(self) -> None:
        """Stop to shadow, once it has seen all that was answered."""
        self.metrics.later.flush()
        await self.shadow.stop()

    async def release(self, seconds: float = 0.0) -> None:
        """Stop shadowing, give requests in flight so many seconds to end, end the runner."""
        await self.stop_shadow()
        try:
            async with asyncio.timeout(seconds):
                await self._unused()
        except TimeoutError:
            if seconds:
                logger.error("requests cut", version=self.manifest.version, requests=self._users)
        await self.runner.close()

    async def _unused(self) -> None:
        """Wait until no request is answered by this model."""
        while self._users:
            self._last_left = asyncio.get_running_loop().create_future()
            await self._last_left

    def _new_shadow(self) -> None:
        settings = self._settings.shadow
        if self._variant is Variant.CANDIDATE:  # an outbox has one writer
            settings = settings.model_copy(update={"path": _beside(settings.path)})
        self._shadow_registry = CollectorRegistry()
        self.shadow = ShadowPipeline(settings, self.loaded.bundle, self.loaded.reference, self._shadow_registry)


class Models:
    """Loads, chooses, swaps and releases models. All methods belong on the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._serving: dict[str, Model] = {}
        self.only: Model | None = None
        """The one that answers every request; None where there is none, or a candidate beside it."""

        self._changing = asyncio.Lock()
        self._began = self._took = 0.0  # the latest reload, in seconds of the monotonic clock
        self._stopped = False
        self._releasing: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Model]:
        """Those that answer requests now."""
        return iter(self._serving.values())

    @property
    def loaded(self) -> bool:
        """Whether there is a bundle to answer with."""
        return Variant.STABLE in self._serving

    @property
    def alive(self) -> bool:
        """Whether every model's runner can go on; with none loaded yet nothing is wrong."""
        return all(model.runner.alive for model in self)

    @property
    def versions(self) -> dict[str, str]:
        """The version that each variant has."""
        return {variant: model.manifest.version for variant, model in self._serving.items()}

    def choose(self, wanted: str | None = None) -> Model:
        """The model that answers: the one that is `wanted`, else the candidate for its share of the requests.

        Raises NotReadyError before there is one, InvalidRequestError for a variant that there is not.
        """
        if wanted is None and self.only is not None:
            return self.only
        if not self._serving:
            raise NotReadyError("the bundle is not loaded yet; try again in a moment")
        if wanted is None:
            candidate = random.random() < self._settings.candidate_share
            return self._serving[Variant.CANDIDATE if candidate else Variant.STABLE]
        if wanted not in self._serving:
            raise InvalidRequestError(f"there is no variant {wanted[:64]!r}; there is {', '.join(self._serving)}")
        return self._serving[wanted]

    async def reload(self) -> dict[str, str]:
        """Load the bundles as they lie on disk now; those whose version changed take over, and no request is lost.

        Gives the version of each variant that is served then. Raises StartupError when a bundle or its shadow does not
        fit, or after `stop`; what was served before is then served still, be there one bundle or two. Raises
        ReloadingError at once while another reload runs: it may have read the files before they last changed.
        """
        if self._stopped:
            raise StartupError("the service is stopping")
        if self._changing.locked():
            left = self._took - (time.monotonic() - self._began)
            raise ReloadingError(retry_after=max(math.ceil(left), 1))
        async with self._changing:
            self._began = time.monotonic()
            before = [model.loaded for model in self]
            loaded = await self._load(Variant.STABLE, self._settings.bundle, before)
            bundles = {Variant.STABLE: loaded}
            if self._settings.candidate is not None:
                candidate = await self._load(Variant.CANDIDATE, self._settings.candidate, [*before, loaded])
                if _version(candidate) == _version(loaded):
                    logger.warning("the candidate is the stable bundle: served once", version=_version(loaded))
                else:
                    bundles[Variant.CANDIDATE] = candidate
            _check_labels(bundles)
            await self._swap({variant: self._kept(variant, one) for variant, one in bundles.items()})
            self._took = time.monotonic() - self._began
        return self.versions

    async def unchanging(self) -> None:
        """Wait until no reload runs."""
        async with self._changing:
            pass

    async def stop(self) -> None:
        """Release every model. Requests have ended or been cut by now."""
        self._stopped = True
        async with self._changing:  # what is being loaded is not served any more
            models = list(self)
            self._serve({})
        for model in models:
            await model.release()
        await asyncio.gather(*self._releasing)

    async def _load(self, variant: Variant, path: Path, before: Sequence[Loaded]) -> Loaded:
        began = time.monotonic()
        loading = partial(load, path, _asked(self._settings), _device(self._settings), before=before)
        # Threads that a session starts are as nice as who makes it, so that this must not be where there are several.
        shared = self.loaded and available_cpus() == 1
        thread = ThreadPoolExecutor(1, thread_name_prefix="load", initializer=give_way if shared else None)
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(thread, loading)
            thread.submit(give_way)  # nobody waits for what follows
            thread.submit(use_huge_pages)
        finally:
            thread.shutdown(wait=False)
        if self._stopped:
            raise StartupError("the service is stopping")
        name, seconds = loaded.bundle.manifest.name, round(time.monotonic() - began, 3)
        logger.info("loaded", variant=variant, model=name, version=_version(loaded), seconds=seconds)
        return loaded

    def _kept(self, variant: Variant, loaded: Loaded) -> Model:
        """The model that serves this version already, else a new one."""
        old = self._serving.get(variant)
        if old is not None and old.manifest.version == _version(loaded):
            return old
        return Model(loaded, self._settings, variant)

    async def _swap(self, serving: dict[str, Model]) -> None:
        """Let these models answer, and their shadows take the outboxes from those before; or leave all as it was."""
        before = self._serving
        new = [model for variant, model in serving.items() if before.get(variant) is not model]
        old = [model for variant, model in before.items() if serving.get(variant) is not model]
        for model in new:
            model.runner.start()
        self._serve(serving)
        try:
            for model in old:
                await model.stop_shadow()
            for model in new:
                await model.start_shadow()
        except BaseException as error:
            self._serve(before)
            for model in new:
                await model.stop_shadow()
                self._retire(model)
            for model in old:
                await _resume_shadow(model)
            if isinstance(error, ShadowError):
                raise StartupError(f"shadow: {error}") from error
            raise
        for model in old:
            self._retire(model)

    def _serve(self, serving: dict[str, Model]) -> None:
        self._serving = serving
        self.only = serving.get(Variant.STABLE) if len(serving) == 1 else None

    def _retire(self, model: Model) -> None:
        task = asyncio.create_task(model.release(self._settings.shutdown_seconds), name="release")
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)


def _version(loaded: Loaded) -> str:
    return loaded.bundle.manifest.version


def _check_labels(bundles: Mapping[Variant, Loaded]) -> None:
    """Raise StartupError unless all have the same labels, in whichever order, and all one of them or all several."""
    manifests = [one.bundle.manifest for one in bundles.values()]
    if len({(frozenset(manifest.labels), manifest.multi_label) for manifest in manifests}) > 1:
        raise StartupError(f"the {' and the '.join(bundles)} bundle have different labels; serve them apart")


async def _resume_shadow(model: Model) -> None:
    try:
        await model.start_shadow()
    except ShadowError as error:
        logger.error("served without its shadow", version=model.manifest.version, error=str(error))


def _runner(loaded: Loaded, settings: Settings, metrics: ModelMetrics) -> Runner:
    plan = loaded.plan
    logger.info(
        "inference",
        provider=loaded.classifier.provider,
        workers=plan.workers,
        threads=plan.threads,
        batch_tokens=plan.limits.tokens,
    )
    return Scheduler(
        loaded.classifier,
        metrics,
        workers=plan.workers,
        limits=plan.limits,
        max_tokens=loaded.bundle.manifest.max_tokens,
        queue_limit=settings.queue_limit,
        stall_seconds=settings.stall_seconds,
        cost=plan.cost,
    )


def _asked(settings: Settings) -> Asked:
    return Asked(settings.workers, settings.threads, settings.batch_tokens)


def _device(settings: Settings) -> Device:
    return Device(settings.device, settings.device_id, settings.tensorrt_cache, settings.tensorrt_fp16)


def _beside(path: Path) -> Path:
    """The candidate's outbox, beside the stable one's."""
    return path.with_stem(f"{path.stem}-candidate")
