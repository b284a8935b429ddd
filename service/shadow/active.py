"""The parts that exist only while shadowing is enabled: how they start, and how they stop in bounded time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from distill.teachers import Teacher, TeacherError
from distill.teachers.scaling import Scaling
from export.bundle.anchors import Anchor
from export.bundle.decision import Decision
from export.bundle.format import Manifest
from service.shadow.errors import ShadowError
from service.shadow.ledger import Ledger
from service.shadow.outbox.store import Outbox
from service.shadow.outbox.thread import OutboxThread
from service.shadow.outcome import Outcome
from service.shadow.questions import Questions
from service.shadow.retention import delete_old_rows
from service.shadow.settings import ShadowSettings
from service.shadow.teacher import TeacherCaller, make_teacher
from service.shadow.teacher_watch import TeacherWatch
from service.shadow.worker import Worker
from service.shadow.writer import Writer

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ActiveShadow:
    """A teacher, an outbox, and the tasks that write texts to the outbox and ask the teacher about them."""

    teacher: Teacher
    outbox: Outbox
    thread: OutboxThread
    writer: Writer
    worker: Worker
    watch: TeacherWatch
    questions: Questions
    writer_task: asyncio.Task[None]
    worker_tasks: tuple[asyncio.Task[None], ...]
    watch_task: asyncio.Task[None]
    retention_task: asyncio.Task[None] | None

    @property
    def oldest_age(self) -> float | None:
        """Seconds since the oldest text without an outcome was answered, by the monotonic clock; None without one."""
        oldest = min((since for since in (self.worker.oldest, self.writer.oldest) if since is not None), default=None)
        return None if oldest is None else time.monotonic() - oldest

    @classmethod
    async def start(
        cls,
        settings: ShadowSettings,
        manifest: Manifest,
        ledger: Ledger,
        timed: Callable[[Outcome, float], None],
        witness: str | None = None,
        decision: Decision | None = None,
        anchors: Sequence[Anchor] = (),
    ) -> ActiveShadow:
        """Make the teacher, open the outbox, load its counts into the ledger, and start the tasks.

        `manifest`, `decision` and `anchors` are those of the student's bundle, `witness` the version of its witness.
        Raises ShadowError if the teacher or the outbox is unavailable; the message says what to do.
        """
        labels = manifest.labels
        scaling = _scaling(manifest)
        thread = OutboxThread()
        try:
            # In a thread, for the teacher may be read from disk. The outbox's thread is still idle; the event loop's
            # executor may be busy with the previous teacher, and would grow by a thread.
            teacher = await thread.call(make_teacher, settings, labels)
        except BaseException:
            thread.close()
            raise
        outbox = Outbox(
            settings.path,
            # Apart, because the bands of a student alone and those with a witness are not the same.
            bundle=manifest.version if witness is None else f"{manifest.version}+{witness}",
            labels=labels,
            teacher=f"{teacher.name}@{teacher.version}",
            keep_text=settings.store_text,
            max_bytes=settings.max_bytes,
        )
        try:
            caller = TeacherCaller(settings, teacher, labels)
            watch = TeacherWatch(settings, anchors, labels, outbox, thread, caller)
            worker = Worker(settings, outbox, thread, ledger, caller, watch, timed, scaling, decision)
            await thread.call(outbox.open)
            await _restore(outbox, thread, ledger)
            await watch.restore()
        except BaseException as error:
            await _within(settings.stop_seconds, thread.call(outbox.close), "outbox")
            thread.close()
            await _within(settings.stop_seconds, teacher.aclose(), "teacher")
            if isinstance(error, TeacherError):
                raise ShadowError(f"shadow.teacher: {error}") from error
            raise
        writer = Writer(settings, outbox, thread, ledger, worker.stored)
        writer_task = asyncio.create_task(writer.run(), name="shadow-writer")
        workers = min(settings.concurrency, teacher.concurrency)
        worker_tasks = tuple(asyncio.create_task(worker.run(), name=f"shadow-worker-{n}") for n in range(workers))
        watch_task = asyncio.create_task(watch.run(), name="shadow-teacher-watch")
        retention_task = None
        if settings.retention_days is not None:
            deleting = delete_old_rows(outbox, thread, settings.retention_days)
            retention_task = asyncio.create_task(deleting, name="shadow-retention")
        return cls(
            teacher,
            outbox,
            thread,
            writer,
            worker,
            watch,
            Questions(settings, caller, thread, labels, scaling),
            writer_task,
            worker_tasks,
            watch_task,
            retention_task,
        )

    async def stop(self, seconds: float) -> None:
        """Write what is queued, let running calls end, and close; within `seconds`, even if something hangs.

        Pending rows stay in the outbox.
        """
        if self.retention_task is not None:
            self.retention_task.cancel()
        self.writer.stop()
        self.worker.stop()
        self.watch.stop()
        tasks = {self.writer_task, *self.worker_tasks, self.watch_task}
        _, hanging = await asyncio.wait(tasks, timeout=0.6 * seconds)
        for task in hanging:
            task.cancel()
        if hanging:
            await asyncio.wait(hanging, timeout=0.1 * seconds)
        self.writer.discard()
        if self.writer_task not in hanging:
            # Not after a write that may or may not have succeeded: its rows must not also be stored as lost.
            await _within(0.1 * seconds, self.writer.flush(), "writer")
        await _within(0.1 * seconds, self.thread.call(self.outbox.close), "outbox")
        self.thread.close()
        await _within(0.1 * seconds, self.teacher.aclose(), "teacher")


def _scaling(manifest: Manifest) -> Scaling | None:
    """Return the calibration of the student's teacher, if any. Raises ShadowError if it does not fit the labels."""
    values = manifest.teacher.get("calibration")
    try:
        return None if values is None else Scaling.from_dict(values, len(manifest.labels))
    except TeacherError as error:
        raise ShadowError(f"the bundle {manifest.name}: {error}") from error


async def _restore(outbox: Outbox, thread: OutboxThread, ledger: Ledger) -> None:
    """Load the counts of earlier processes, and the rows that they left pending, into the ledger."""
    ledger.history.turn(time.time())
    ledger.restore(await thread.call(outbox.restore, ledger.history.hour, ledger.null))


async def _within(seconds: float, closing: Coroutine[Any, Any, None], what: str) -> None:
    """Await `closing` for at most `seconds`; log a warning if it takes longer or fails."""
    task = asyncio.create_task(closing)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        log.warning("shadow did not close in time", what=what)
    elif not task.cancelled() and (error := task.exception()) is not None:
        log.warning("shadow did not close cleanly", what=what, kind=type(error).__name__)
