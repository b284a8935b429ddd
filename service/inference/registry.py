"""Load, choose, swap and release the models in service: `stable`, and beside it a `candidate` where one is set.

A model is a bundle with everything that it needs to answer and to be compared with its teacher.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import StrEnum
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry

from export.bundle.format import Manifest
from export.bundle.providers import Device
from export.bundle.session import lacks_gpu
from service.errors import InvalidRequestError, NotReadyError, ReloadingError, StartupError
from service.inference.autotune import Overrides
from service.inference.load import Loaded, load
from service.inference.scheduler import Scheduler
from service.inference.stage_runner import StageRunner
from service.process.cpus import available_cpus
from service.process.huge_pages import use_huge_pages
from service.process.parts import interleaved
from service.process.priority import lower_priority
from service.settings import Settings
from service.shadow.errors import ShadowError
from service.shadow.pipeline import ShadowPipeline
from service.shadow.witness import load_witness
from service.telemetry.metrics import ModelMetrics
from service.telemetry.objectives import Objectives

if TYPE_CHECKING:
    from service.inference.deferral import Deferral

logger = structlog.get_logger(__name__)

_IDLE_TICK = 0.01
_CLOSE_SECONDS = 1.0


class Variant(StrEnum):
    """The role of a bundle."""

    STABLE = "stable"
    CANDIDATE = "candidate"


class Model:
    """One loaded bundle: its scheduler, its shadow and its metrics."""

    def __init__(self, loaded: Loaded, settings: Settings, variant: Variant) -> None:
        self.manifest: Manifest = loaded.bundle.manifest
        self.decision = loaded.decision
        self.loaded = loaded
        self._settings = settings
        self._variant = variant
        self._registry = CollectorRegistry()
        self.metrics = ModelMetrics(self._registry, self.manifest, variant)
        objectives = settings.availability_objective, settings.latency_objective, settings.latency_seconds
        self._registry.register(Objectives(*objectives))
        self.scheduler = _scheduler(loaded, settings, self.metrics)
        self.deferral: Deferral | None = None
        self._new_shadow()

    @property
    def registries(self) -> tuple[CollectorRegistry, CollectorRegistry]:
        """The registries of its metrics: of inference, and of shadowing."""
        return self._registry, self._shadow_registry

    async def gap(self, window: str) -> dict[str, Any]:
        """Return the body of `GET /gap`, with every answer so far counted. Requests are answered meanwhile."""
        self.metrics.deferred.flush()
        return await interleaved(self.shadow.gap_parts(window))

    async def gap_history(self, window: str) -> dict[str, Any]:
        """Return the body of `GET /gap/history` in the same way."""
        self.metrics.deferred.flush()
        return await interleaved(self.shadow.gap_history_parts(window))

    async def start_deferral(self) -> None:
        """Make the teacher that the bundle leaves texts to, if it does. Raises StartupError."""
        if self.manifest.deferred_below is None:
            return
        from service.inference.deferral import Deferral, make_deferring_teacher  # a teacher, only where it is asked

        # In a thread, for the teacher may be read from disk.
        teacher = await asyncio.to_thread(make_deferring_teacher, self._settings, self.manifest)
        try:
            self.deferral = Deferral(self._settings, self.manifest, teacher, self._registry)
        except BaseException:
            await teacher.aclose()
            raise
        logger.info("deferring", below=self.manifest.deferred_below, teacher=teacher.name, version=teacher.version)

    async def start_shadow(self) -> None:
        """Start shadowing, for the first time or after `stop_shadow`. Raises ShadowError."""
        if self.shadow.started:
            self._new_shadow()
        await self.shadow.start()

    async def stop_shadow(self) -> None:
        """Stop shadowing, after the shadow has seen every answer so far."""
        self.metrics.deferred.flush()
        await self.shadow.stop()

    async def release(self, seconds: float = 0.0) -> None:
        """Stop shadowing, give requests in flight at most `seconds` to end, and end the scheduler."""
        await self.stop_shadow()
        try:
            async with asyncio.timeout(seconds):
                while self.scheduler.open or (self.deferral is not None and self.deferral.open):
                    await asyncio.sleep(_IDLE_TICK)
        except TimeoutError:
            if seconds:
                logger.error("requests cut", version=self.manifest.version, requests=self.scheduler.open)
        await self.scheduler.close()
        await self.close_deferral()

    async def close_deferral(self) -> None:
        """Let students answer what waits for the teacher, and close it."""
        if self.deferral is not None:
            await self.deferral.close(_CLOSE_SECONDS)

    def _new_shadow(self) -> None:
        settings = self._settings.shadow
        if self._variant is Variant.CANDIDATE:  # an outbox may have only one writer
            settings = settings.model_copy(update={"path": _beside(settings.path)})
        self._shadow_registry = CollectorRegistry()
        loaded = self.loaded
        self.shadow = ShadowPipeline(
            settings,
            loaded.bundle,
            loaded.reference,
            self._shadow_registry,
            decision=loaded.decision,
            witness=loaded.witness,
        )


class Models:
    """The models in service. All methods belong on the event loop."""

    def __init__(self, settings: Settings, *, classifies: bool = True) -> None:
        self._settings, self._classifies = settings, classifies
        self._serving: dict[str, Model] = {}
        self.only: Model | None = None
        """The model that answers every request; None while there is none, or a candidate beside it."""

        self._changing = asyncio.Lock()
        self._began = self._took = 0.0  # begin and duration of the latest reload, in seconds of `time.monotonic()`
        self._stopped = False
        self._releasing: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Model]:
        """Iterate over the models that answer requests now."""
        return iter(self._serving.values())

    @property
    def loaded(self) -> bool:
        """Whether there is a model that answers requests."""
        return Variant.STABLE in self._serving

    @property
    def alive(self) -> bool:
        """Whether every model's scheduler works; True while none is loaded."""
        return all(model.scheduler.alive for model in self)

    @property
    def versions(self) -> dict[str, str]:
        """The version of each variant."""
        return {variant: model.manifest.version for variant, model in self._serving.items()}

    def choose(self, wanted: str | None = None) -> Model:
        """Return the variant that is `wanted`, by default the candidate for its share of the requests, else `stable`.

        Raises NotReadyError while no model is loaded, InvalidRequestError for a variant that does not exist.
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
        """Load the bundles as they are on disk now; those with a new version take over, and no request is lost.

        Returns the version of each variant that is served then. Raises StartupError when a bundle or its shadow does
        not fit, or after `stop`; the models from before then stay in service. Raises ReloadingError while another
        reload runs, which may have read the files before they last changed.
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
        """Wait until no reload is running."""
        async with self._changing:
            pass

    async def stop(self) -> None:
        """Release every model. Requests must have ended or been cut."""
        self._stopped = True
        async with self._changing:  # a reload that is running serves nothing any more
            models = list(self)
            self._serve({})
        for model in models:
            await model.release()
        await asyncio.gather(*self._releasing)

    async def _load(self, variant: Variant, path: Path, before: Sequence[Loaded]) -> Loaded:
        began = time.monotonic()
        loading = partial(load, path, _overrides(self._settings), _device(self._settings), before=before)
        # Only on a single CPU: the threads of a session inherit the priority of the thread that makes it.
        shared = self.loaded and available_cpus() == 1
        thread = ThreadPoolExecutor(1, thread_name_prefix="load", initializer=lower_priority if shared else None)
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(thread, loading)
            if variant is Variant.STABLE:  # a witness is that of one version
                witness = partial(load_witness, self._settings.shadow, loaded.bundle.manifest)
                loaded = replace(loaded, witness=await asyncio.get_running_loop().run_in_executor(thread, witness))
            thread.submit(lower_priority)  # nobody waits for what follows
            thread.submit(use_huge_pages)
        except ShadowError as error:
            raise StartupError(f"shadow: {error}") from error
        finally:
            thread.shutdown(wait=False)
        if self._stopped:
            raise StartupError("the service is stopping")
        name, seconds = loaded.bundle.manifest.name, round(time.monotonic() - began, 3)
        logger.info("loaded", variant=variant, model=name, version=_version(loaded), seconds=seconds)
        if self._settings.device == "auto" and lacks_gpu():
            logger.warning("no GPU was found, so the CPU answers; with REFLUX_DEVICE=cuda this stops the start")
        return loaded

    def _kept(self, variant: Variant, loaded: Loaded) -> Model:
        """Return the model that serves this version already, with the same witness, else a new one."""
        old = self._serving.get(variant)
        if old is not None and _versions(old.loaded) == _versions(loaded):
            return old
        return Model(loaded, self._settings, variant)

    async def _swap(self, serving: dict[str, Model]) -> None:
        """Let the models in `serving` answer, and their shadows take over the outboxes; on an error undo it."""
        before = self._serving
        new = [model for variant, model in serving.items() if before.get(variant) is not model]
        old = [model for variant, model in before.items() if serving.get(variant) is not model]
        if self._classifies:
            await _start_deferrals(new)
        for model in new:
            model.scheduler.start()
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


def _versions(loaded: Loaded) -> tuple[str, str | None]:
    """Return the versions of a bundle and of its witness."""
    return _version(loaded), loaded.witness.version if loaded.witness is not None else None


def _check_labels(bundles: Mapping[Variant, Loaded]) -> None:
    """Raise StartupError unless all have the same labels, in any order, and all or none are multi-label."""
    manifests = [one.bundle.manifest for one in bundles.values()]
    if len({(frozenset(manifest.labels), manifest.multi_label) for manifest in manifests}) > 1:
        raise StartupError(f"the {' and the '.join(bundles)} bundle have different labels; serve them apart")


async def _start_deferrals(models: Sequence[Model]) -> None:
    """Make the teachers that models leave texts to; all or none. Raises StartupError."""
    try:
        for model in models:
            await model.start_deferral()
    except BaseException:
        for model in models:
            await model.close_deferral()
        raise


async def _resume_shadow(model: Model) -> None:
    try:
        await model.start_shadow()
    except ShadowError as error:
        logger.error("served without its shadow", version=model.manifest.version, error=str(error))


def _scheduler(loaded: Loaded, settings: Settings, metrics: ModelMetrics) -> Scheduler:
    """Return a scheduler for the stages of a bundle.

    The last stage, which costs most, says how many threads there are. The event loop keeps the first stages if their
    runs cost less than a thread hop.
    """
    runners = []
    cut_offs = [*(stage.cut_off for stage in loaded.bundle.manifest.stages[:-1]), None]  # the last answers all
    for place, (stage, cut_off) in enumerate(zip(loaded.stages, cut_offs, strict=True)):
        tuning, before = stage.tuning, loaded.stages[max(place - 1, 0)].classifier.tokenizer
        logger.info(
            "inference",
            provider=stage.classifier.provider,
            workers=tuning.workers,
            threads=tuning.threads,
            batch_tokens=tuning.limits.tokens,
            **({"stage": loaded.bundle.manifest.stages[place].name} if len(loaded.stages) > 1 else {}),
        )
        runners.append(
            StageRunner(
                stage.classifier,
                limits=tuning.limits,
                max_tokens=stage.bundle.manifest.max_tokens,
                cost=tuning.cost,
                place=place,
                cut_off=cut_off,
                keeps=partial(stage.classifier.tokenizer.keeps, by=before),
            )
        )
    return Scheduler(
        runners,
        metrics,
        workers=loaded.stages[-1].tuning.workers,
        on_loop=sum(1 for _ in takewhile(lambda stage: not stage.tuning.workers, loaded.stages)),
        queue_limit=settings.queue_limit,
        stall_seconds=settings.stall_seconds,
    )


def _overrides(settings: Settings) -> Overrides:
    return Overrides(settings.workers, settings.threads, settings.batch_tokens)


def _device(settings: Settings) -> Device:
    return Device(settings.device, settings.device_id, settings.tensorrt_cache, settings.tensorrt_fp16)


def _beside(path: Path) -> Path:
    """Return the path of the candidate's outbox, next to that of the stable one."""
    return path.with_stem(f"{path.stem}-candidate")
