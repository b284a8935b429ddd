"""The parts that exist only while shadowing is enabled: how they start, and how they stop in bounded time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import structlog

from distill.teachers import Teacher, TeacherError
from distill.teachers.scaling import Scaling
from export.bundle.anchors import Anchor
from export.bundle.decision import Decision
from export.bundle.format import Manifest
from service.shadow.budget import Budget
from service.shadow.errors import OutboxBusyError, OutboxError, ShadowError
from service.shadow.ledger import Ledger
from service.shadow.outbox.base import AnyOutbox
from service.shadow.outbox.rows import TeacherIdentity
from service.shadow.outbox.thread import OutboxThread
from service.shadow.outcome import Outcome
from service.shadow.questions import Questions
from service.shadow.retention import delete_old_rows
from service.shadow.settings import ShadowSettings
from service.shadow.shared.outbox import SharedOutbox
from service.shadow.stores import make_outbox
from service.shadow.teacher import TeacherCaller, make_teacher
from service.shadow.teacher_watch import TeacherWatch
from service.shadow.view import SharedView, View
from service.shadow.worker import Worker
from service.shadow.writer import Writer

log = structlog.get_logger(__name__)


class Asked(NamedTuple):
    """What the teacher is asked about: answers of the student with this `manifest`, whose bundle has the rest."""

    settings: ShadowSettings
    manifest: Manifest
    scaling: Scaling | None
    decision: Decision | None
    anchors: Sequence[Anchor]


@dataclass(frozen=True, slots=True)
class Asking:
    """What only a process has that asks the teacher: the teacher, and the tasks that ask it."""

    teacher: Teacher
    worker: Worker
    watch: TeacherWatch
    questions: Questions
    tasks: tuple[asyncio.Task[None], ...]
    retention: asyncio.Task[None] | None

    @classmethod
    async def start(
        cls,
        asked: Asked,
        teacher: Teacher,
        outbox: AnyOutbox,
        thread: OutboxThread,
        ledger: Ledger,
        view: View,
        timed: Callable[[Outcome, float], None],
    ) -> Asking:
        """Read what the outbox has about the teacher, and start the tasks. Raises ShadowError."""
        settings, labels, scaling = asked.settings, asked.manifest.labels, asked.scaling
        try:
            caller = TeacherCaller(settings, Budget(settings.usd_per_hour), teacher, labels)
        except TeacherError as error:
            raise ShadowError(f"shadow.teacher: {error}") from error
        watch = TeacherWatch(settings, asked.anchors, labels, outbox, thread, caller)
        await watch.restore()
        if not outbox.shared:
            view.record = watch
        worker = Worker(settings, outbox, thread, ledger, caller, watch, view, timed, scaling, asked.decision)
        workers = min(settings.concurrency, teacher.concurrency)
        tasks = [asyncio.create_task(worker.run(), name=f"shadow-worker-{n}") for n in range(workers)]
        tasks.append(asyncio.create_task(watch.run(), name="shadow-teacher-watch"))
        retention = None
        if settings.retention_days is not None:
            deleting = delete_old_rows(outbox, thread, settings.retention_days)
            retention = asyncio.create_task(deleting, name="shadow-retention")
        questions = Questions(settings, caller, thread, labels, scaling)
        return cls(teacher, worker, watch, questions, tuple(tasks), retention)

    def stop(self) -> None:
        """Let running calls end, and begin no other."""
        if self.retention is not None:
            self.retention.cancel()
        self.worker.stop()
        self.watch.stop()


@dataclass(frozen=True, slots=True)
class ActiveShadow:
    """An outbox, the task that writes texts to it, and unless another process does it, what asks the teacher."""

    outbox: AnyOutbox
    thread: OutboxThread
    writer: Writer
    view: View
    asking: Asking | None
    writer_task: asyncio.Task[None]

    @property
    def oldest_age(self) -> float | None:
        """Seconds since the oldest text without an outcome was answered, None without one."""
        waiting = [self.writer.oldest, self.asking.worker.oldest if self.asking else None]
        ages = [time.monotonic() - since for since in waiting if since is not None]
        if self.view.oldest is not None:
            ages.append(max(time.time() - self.view.oldest, 0.0))
        return max(ages, default=None)

    @classmethod
    async def start(
        cls,
        settings: ShadowSettings,
        manifest: Manifest,
        ledger: Ledger,
        view: View,
        timed: Callable[[Outcome, float], None],
        witness: str | None = None,
        decision: Decision | None = None,
        anchors: Sequence[Anchor] = (),
    ) -> ActiveShadow:
        """Make the teacher, open the outbox, load its counts into the ledger, and start the tasks.

        `manifest`, `decision` and `anchors` are those of the student's bundle, `witness` the version of its witness.
        A process that does not ask makes no teacher, and starts without a shared outbox that is out of reach.
        Raises ShadowError if the teacher or the outbox is unavailable; the message says what to do.
        """
        asked = Asked(settings, manifest, _scaling(manifest) if settings.ask else None, decision, anchors)
        async with AsyncExitStack() as undo:
            thread = OutboxThread()
            undo.callback(thread.close)
            teacher = None
            if settings.ask:
                # In a thread, for the teacher may be read from disk. The outbox's thread is still idle; the event
                # loop's executor may be busy with the previous teacher, and would grow by a thread.
                teacher = await thread.call(make_teacher, settings, manifest.labels)
                undo.push_async_callback(_closed, settings.stop_seconds, teacher.aclose, "teacher")
                view.teacher = _identity(teacher)
            # Apart, because the bands of a student alone and those with a witness are not the same.
            bundle = manifest.version if witness is None else f"{manifest.version}+{witness}"
            outbox = make_outbox(settings, bundle, manifest.labels, view.teacher if teacher else None)
            undo.push_async_callback(_closed, settings.stop_seconds, partial(thread.call, outbox.close), "outbox")
            await _open(outbox, thread, settings)
            if isinstance(view, SharedView) and isinstance(outbox, SharedOutbox):
                view.attach(outbox, thread)
            asking = None
            if teacher is not None:
                await _restore(outbox, thread, ledger)
                asking = await Asking.start(asked, teacher, outbox, thread, ledger, view, timed)
            undo.pop_all()
        writer = Writer(settings, outbox, thread, ledger, asking.worker.stored if asking else lambda _: None)
        writer_task = asyncio.create_task(writer.run(), name="shadow-writer")
        return cls(outbox, thread, writer, view, asking, writer_task)

    async def remember_left(self, since: float | None) -> None:
        """Store since when the student must leave (Unix seconds, None if it need not). Never raises."""
        try:
            await self.thread.call(self.outbox.remember_left, since)
        except OutboxError as error:
            log.warning("shadow verdict cannot be stored", error=str(error))

    async def stop(self, seconds: float) -> None:
        """Write what is queued, let running calls end, and close; within `seconds`, even if something hangs.

        Pending rows stay in the outbox.
        """
        self.writer.stop()
        tasks = {self.writer_task}
        if self.asking is not None:
            self.asking.stop()
            tasks.update(self.asking.tasks)
        _, hanging = await asyncio.wait(tasks, timeout=0.6 * seconds)
        for task in hanging:
            task.cancel()
        if hanging:
            await asyncio.wait(hanging, timeout=0.1 * seconds)
        self.writer.discard()
        if self.writer_task not in hanging:
            # Not after a write that may or may not have succeeded: its rows must not also be stored as lost.
            await _within(0.1 * seconds, self.writer.flush(), "writer")
        if isinstance(self.view, SharedView):
            self.view.detach()
        await _within(0.1 * seconds, self.thread.call(self.outbox.close), "outbox")
        self.thread.close()
        if self.asking is not None:
            await _within(0.1 * seconds, self.asking.teacher.aclose(), "teacher")


def _identity(teacher: Teacher) -> TeacherIdentity:
    origin = getattr(teacher, "origin", None) or (teacher.name, teacher.version)
    return TeacherIdentity(teacher.name, teacher.version, origin)


async def _open(outbox: AnyOutbox, thread: OutboxThread, settings: ShadowSettings) -> None:
    """Open the outbox. Texts are answered whether or not a shared one is within reach, and wait in memory meanwhile."""
    try:
        await thread.call(outbox.open)
    except OutboxBusyError as error:
        if settings.ask or not outbox.shared:
            raise
        log.error("shadow starts without its store", error=str(error))


def _scaling(manifest: Manifest) -> Scaling | None:
    """Return the calibration of the student's teacher, if any. Raises ShadowError if it does not fit the labels."""
    values = manifest.teacher.get("calibration")
    try:
        return None if values is None else Scaling.from_dict(values, len(manifest.labels))
    except TeacherError as error:
        raise ShadowError(f"the bundle {manifest.name}: {error}") from error


async def _restore(outbox: AnyOutbox, thread: OutboxThread, ledger: Ledger) -> None:
    """Load the counts of earlier processes, and the rows that they left pending, into the ledger."""
    ledger.history.turn(time.time())
    ledger.restore(await thread.call(outbox.restore, ledger.history.hour, ledger.null))


async def _closed(seconds: float, close: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
    await _within(seconds, close(), what)


async def _within(seconds: float, closing: Coroutine[Any, Any, None], what: str) -> None:
    """Await `closing` for at most `seconds`; log a warning if it takes longer or fails."""
    task = asyncio.create_task(closing)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        log.warning("shadow did not close in time", what=what)
    elif not task.cancelled() and (error := task.exception()) is not None:
        log.warning("shadow did not close cleanly", what=what, kind=type(error).__name__)
