"""The parts that exist only while texts are shadowed: how they come up, and how they go down in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import ValidationError

from distill.teachers import Teacher, TeacherError, create
from distill.teachers.scaling import Scaling
from export.bundle.format import Manifest
from service.shadow.errors import ShadowError
from service.shadow.ledger import Ledger, Outcome
from service.shadow.outbox import Outbox
from service.shadow.settings import ShadowSettings
from service.shadow.thread import OutboxThread
from service.shadow.worker import Worker
from service.shadow.writer import Writer

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A teacher, an outbox, and the tasks that bring texts from one to the other."""

    teacher: Teacher
    outbox: Outbox
    thread: OutboxThread
    writer: Writer
    worker: Worker
    writing: asyncio.Task[None]
    asking: tuple[asyncio.Task[None], ...]

    @property
    def oldest_age(self) -> float | None:
        """Seconds since the oldest text without an outcome was answered, whatever is done to the clock on the wall."""
        oldest = min((since for since in (self.worker.oldest, self.writer.oldest) if since is not None), default=None)
        return None if oldest is None else time.monotonic() - oldest

    @classmethod
    async def start(
        cls,
        settings: ShadowSettings,
        manifest: Manifest,
        ledger: Ledger,
        timed: Callable[[Outcome, float], None],
    ) -> Running:
        """Make the teacher, open the outbox, let the ledger know what is in it, and begin.

        `manifest` is that of the student's bundle. Raises ShadowError when the teacher or the outbox cannot be had;
        the message says what to do.
        """
        labels = manifest.labels
        scaling = _scaling(manifest)
        thread = OutboxThread()
        try:
            # It may have to be read from disk. The outbox's thread is idle yet; the event loop's own executor may still
            # be answering for the teacher before, and would grow by a thread.
            teacher = await thread.call(make_teacher, settings, labels)
        except BaseException:
            thread.close()
            raise
        outbox = Outbox(
            settings.path,
            bundle=manifest.version,
            labels=labels,
            teacher=f"{teacher.name}@{teacher.version}",
            keep_text=settings.store_text,
            max_bytes=settings.max_bytes,
        )
        try:
            worker = Worker(settings, outbox, thread, ledger, teacher, labels, timed, scaling)
            await thread.call(outbox.open)
            await _recall(outbox, thread, ledger)
        except BaseException as error:
            await _within(settings.stop_seconds, thread.call(outbox.close), "outbox")
            thread.close()
            await _within(settings.stop_seconds, teacher.aclose(), "teacher")
            if isinstance(error, TeacherError):
                raise ShadowError(f"shadow.teacher: {error}") from error
            raise
        writer = Writer(settings, outbox, thread, ledger, worker.stored)
        writing = asyncio.create_task(writer.run(), name="shadow-writer")
        at_once = min(settings.concurrency, teacher.concurrency)
        asking = tuple(asyncio.create_task(worker.run(), name=f"shadow-worker-{n}") for n in range(at_once))
        return cls(teacher, outbox, thread, writer, worker, writing, asking)

    async def stop(self, seconds: float) -> None:
        """Write what is queued, let running calls end, close; within `seconds`, whatever hangs.

        Rows that were not asked for stay in the outbox.
        """
        self.writer.stop()
        self.worker.stop()
        _, hanging = await asyncio.wait({self.writing, *self.asking}, timeout=0.6 * seconds)
        for task in hanging:
            task.cancel()
        if hanging:
            await asyncio.wait(hanging, timeout=0.1 * seconds)
        self.writer.abandon()
        if self.writing not in hanging:
            # Not after a write of unknown fate: what it may have stored must not also be kept as lost.
            await _within(0.1 * seconds, self.writer.flush(), "writer")
        await _within(0.1 * seconds, self.thread.call(self.outbox.close), "outbox")
        self.thread.close()
        await _within(0.1 * seconds, self.teacher.aclose(), "teacher")


def make_teacher(settings: ShadowSettings, labels: Sequence[str]) -> Teacher:
    """Make the teacher of the settings. Raises ShadowError when there is none or it cannot be had."""
    if settings.teacher is None:
        raise ShadowError(
            'shadow.enabled needs shadow.teacher, such as {"kind": "bundle", "path": "teacher-bundle"}; '
            "set it, or set shadow.enabled to false"
        )
    try:
        return create(settings.teacher, labels)
    except (TeacherError, ImportError) as error:
        raise ShadowError(f"shadow.teacher: {error}") from error
    except ValidationError as error:  # not as it is: it has what was given, which may be a key
        wrong = error.errors(include_input=False, include_context=False, include_url=False)
        lines = (".".join(("shadow", "teacher", *map(str, item["loc"]))) + f": {item['msg']}" for item in wrong)
        raise ShadowError("; ".join(lines)) from None


def _scaling(manifest: Manifest) -> Scaling | None:
    """How the student's teacher was calibrated, if it was. Raises ShadowError for parameters that do not fit."""
    values = manifest.teacher.get("calibration")
    try:
        return None if values is None else Scaling.from_dict(values, len(manifest.labels))
    except TeacherError as error:
        raise ShadowError(f"the bundle {manifest.name}: {error}") from error


async def _recall(outbox: Outbox, thread: OutboxThread, ledger: Ledger) -> None:
    """Tell the ledger what earlier processes counted, and which rows they left waiting."""
    ledger.earlier = await thread.call(outbox.totals, ledger.bands)
    for band in await thread.call(outbox.waiting_bands):
        ledger.resume(band)


async def _within(seconds: float, closing: Coroutine[Any, Any, None], what: str) -> None:
    """Close something, but leave it behind when it takes too long or fails."""
    task = asyncio.create_task(closing)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        log.warning("shadow did not close in time", what=what)
    elif not task.cancelled() and (error := task.exception()) is not None:
        log.warning("shadow did not close cleanly", what=what, kind=type(error).__name__)
