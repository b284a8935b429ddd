"""Watches the teacher itself: asks it about the anchors again and again, and about some texts twice.

An answer is stored before it counts as evidence (`monitor.teacher_drift`), and none of them enters the gap. The watch
gives way: it asks nothing while the breaker is not closed, the budget is spent or the teacher's server asked to wait,
and its failures do not open the breaker. What could not be asked is asked later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from random import Random

import numpy as np
import structlog

from distill.teachers.base import CONSTANT_METHODS
from export.bundle.anchors import Anchor
from service.shadow.breaker import State
from service.shadow.errors import OutboxError
from service.shadow.outbox.base import AnyOutbox
from service.shadow.outbox.checks import AnchorAnswer, Repeat
from service.shadow.outbox.rows import PendingRow, RowResult
from service.shadow.outbox.thread import OutboxThread
from service.shadow.outcome import Outcome
from service.shadow.settings import ShadowSettings
from service.shadow.teacher import TeacherCaller, TeacherResult
from service.shadow.teacher_record import TeacherRecord

LEAD_SECONDS = 60.0
"""How often a process asks whether the one that watches the teacher is gone."""

_ANSWERED = (Outcome.COMPLETED, Outcome.REFUSED, Outcome.INVALID_ANSWER)

log = structlog.get_logger(__name__)


class TeacherWatch(TeacherRecord):
    """Asks one teacher about anchors and repeats, and keeps the record of its answers.

    Of several processes with a shared outbox one asks about the anchors.
    """

    def __init__(
        self,
        settings: ShadowSettings,
        anchors: Sequence[Anchor],
        labels: Sequence[str],
        outbox: AnyOutbox,
        thread: OutboxThread,
        teacher: TeacherCaller,
    ) -> None:
        super().__init__(settings, anchors, labels)
        self._settings = settings
        self._outbox, self._thread, self._teacher = outbox, thread, teacher
        self._random = Random()
        self._leads = False
        self._stopping = asyncio.Event()

    async def restore(self) -> None:
        """Take over the answers of earlier processes. Raises OutboxError."""
        stored = await self._thread.call(self._outbox.checks)
        self.models.load(stored.models)
        self.load(stored)

    def stop(self) -> None:
        """Make `run` return, after the call that runs."""
        self._stopping.set()

    async def run(self) -> None:
        """Ask about one anchor after another, until stopped."""
        if not self.enabled:
            return
        wait = self._until_due()
        while not await self._stopped_within(wait):
            if not self._leads and not await self._take_lead():
                wait = min(self._interval, LEAD_SECONDS)
                continue
            if self._outbox.shared and (wait := self._until_due()) > 0:
                continue  # another process asked meanwhile
            try:
                await self._ask_anchor()
            except Exception:
                log.exception("shadow anchor failed", anchor=self._next)
                self._next = (self._next + 1) % len(self._anchors)
            wait = self._interval

    async def repeat(self, row: PendingRow, result: RowResult) -> None:
        """Ask about an answered row again, for a share `repeat_rate` of them, unless its teacher is constant."""
        if result.answer is None or result.method in CONSTANT_METHODS or self._stopping.is_set():
            return
        if self._random.random() >= self._settings.repeat_rate:
            return
        try:
            second = await self._ask(row.text, 1)
            if second is None:
                return
            first = int(np.frombuffer(result.answer, dtype="<f4").argmax())
            repeat = Repeat(row.id, time.time(), first, _label(second), *_facts(second))
            if await self._store(partial(self._outbox.add_repeat, repeat)):
                self.drift.pair(repeat.first != repeat.second)
                self._count(second, repeat.time)
        except Exception:
            log.exception("shadow repeat failed", seq=row.seq)

    async def _ask_anchor(self) -> None:
        """Ask about the next anchor, as often as its answers demand, and go on to the one after it."""
        draw, again = 0, True
        while again and not self._stopping.is_set():
            draw += 1
            result = await self._ask(self._anchors[self._next].text, draw)
            if result is None:
                return  # the same anchor is next
            answer = AnchorAnswer(self._next, time.time(), _label(result), result.method, *_facts(result))
            if not await self._store(partial(self._outbox.add_anchor, answer)):
                return
            self._count(result, answer.time)
            again = self._take(answer)

    def _until_due(self) -> float:
        """Return the seconds until the next anchor is due."""
        return 0.0 if self.last is None else min(max(self.last + self._interval - time.time(), 0.0), self._interval)

    async def _take_lead(self) -> bool:
        """Return whether this process is the one that asks about anchors; then it knows what others asked before."""
        try:
            if await self._thread.call(self._outbox.lead):
                self._leads = True
                if self._outbox.shared:
                    self.load(await self._thread.call(self._outbox.checks))
        except OutboxError as error:
            log.warning("shadow teacher watch waits for the outbox", error=str(error))
        return self._leads

    async def _ask(self, text: str, draw: int) -> TeacherResult | None:
        """Ask about a text; None if that is not possible now, or failed."""
        if self._teacher.breaker.state is not State.CLOSED or self._teacher.hold_seconds > 0:
            return None
        reserved = self._teacher.budget.reserve()
        if reserved is None:
            return None
        result = await self._teacher.ask(text, draw)
        self._teacher.settle(reserved, result)
        self.failed = 0 if result.outcome in _ANSWERED else self.failed + 1
        return result if result.outcome in _ANSWERED else None

    async def _store(self, store: Callable[[], None]) -> bool:
        """Store an answer, retrying for as long as the outbox cannot be written. Return False if stopped before."""
        failing = False
        while True:
            try:
                await self._thread.call(store)
                return True
            except OutboxError as error:
                if not failing:
                    log.warning("shadow teacher watch waits for the outbox", error=str(error))
                failing = True
            if await self._stopped_within(self._settings.flush_seconds):
                return False

    def _count(self, result: TeacherResult, at: float) -> None:
        self.cost_usd += result.cost_usd or 0.0
        self.cost_usd_now += result.cost_usd or 0.0
        self.models.count(result.model, result.fingerprint, at)

    async def _stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()


def _label(result: TeacherResult) -> int | None:
    return None if result.probabilities is None else int(result.probabilities.argmax())


def _facts(result: TeacherResult) -> tuple[float, str | None, str | None]:
    return result.cost_usd or 0.0, result.model, result.fingerprint
