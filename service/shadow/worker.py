"""The worker: asks the teacher about pending rows, compares its answers with the student's, stores the outcomes.

An answer is stored before it is counted. While the outbox cannot be written, the worker keeps its answer and asks
nothing more, so that no paid answer is lost. Each concurrent call of `Worker.run` asks about one row at a time.

Rows of a shared outbox are taken for a time. What is not asked about early enough is left to other processes, and so is
a row that another one has ended meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice

import numpy as np
import structlog

from distill.teachers.scaling import Scaling
from export.bundle.decision import Decision
from service.shadow.comparison import compare
from service.shadow.errors import OutboxError
from service.shadow.ledger import Ledger
from service.shadow.outbox.base import AnyOutbox
from service.shadow.outbox.rows import PendingRow, RowResult, Sample
from service.shadow.outbox.thread import OutboxThread
from service.shadow.outcome import Outcome
from service.shadow.settings import ShadowSettings
from service.shadow.teacher import TeacherCaller, TeacherResult
from service.shadow.teacher_watch import TeacherWatch
from service.shadow.tightening import due, tighten
from service.shadow.view import View

OLDEST_SECONDS = 30 * 86400.0
"""Greatest plausible age of a row from an earlier process; a greater one means that a clock was wrong."""

POLL_SECONDS = 1.0
"""How often a shared outbox without rows to ask about is looked at again: other processes write to it too."""

LOOK_SECONDS = 60.0
"""How old what is known of other processes' comparisons may be, to decide whether the ceilings can be lowered."""

FAILURES = (Outcome.TIMEOUT, Outcome.TEACHER_ERROR)
"""Outcomes that the circuit breaker counts as failures."""

log = structlog.get_logger(__name__)


class Worker:
    """Brings the rows of the outbox to their outcomes, oldest first.

    `timed` is called with the outcome and the duration in seconds of each call to the teacher. `watch` may ask about an
    answered row again, and counts which models answered. `scaling` is the teacher's calibration, if it has one: the
    student learned from calibrated answers, so it is compared with the calibrated answer. The answer is stored
    uncalibrated, as the teacher gave it. `decision` is the rule by which the decisions that follow from both answers
    are compared too. `view` has the comparisons of all processes.
    """

    def __init__(
        self,
        settings: ShadowSettings,
        outbox: AnyOutbox,
        thread: OutboxThread,
        ledger: Ledger,
        teacher: TeacherCaller,
        watch: TeacherWatch,
        view: View,
        timed: Callable[[Outcome, float], None],
        scaling: Scaling | None = None,
        decision: Decision | None = None,
    ) -> None:
        self.breaker, self.budget = teacher.breaker, teacher.budget
        self._settings = settings
        self._outbox, self._thread, self._ledger, self._teacher = outbox, thread, ledger, teacher
        self._watch, self._view, self._timed = watch, view, timed
        self._scaling = scaling
        self._decision = decision
        self._next_rows: deque[PendingRow] = deque()
        self._claimed: dict[int, float] = {}  # `since` by `seq`, of the next rows and of those in flight
        self._ask_until: dict[int, float] = {}  # monotonic time by `seq`, of the next rows of a shared outbox
        self._stored_since: dict[str, float] = {}  # `since` by `id`, of stored samples not claimed yet, oldest first
        self._started = (time.time(), time.monotonic())
        self._claiming = asyncio.Lock()
        self._more = asyncio.Event()
        self._tightening = asyncio.Lock()
        self._stopping = False
        self._failing = False

    @property
    def oldest(self) -> float | None:
        """Monotonic time at which the oldest text was answered, of those in flight or stored by this process."""
        return min([*self._claimed.values(), *islice(self._stored_since.values(), 1)], default=None)

    def stored(self, samples: Sequence[Sample]) -> None:
        """Wake up: these samples are in the outbox now."""
        if not self._outbox.shared:  # else they may be others' to ask about
            self._stored_since.update((sample.id, sample.since) for sample in samples)
        self._more.set()

    def stop(self) -> None:
        """Make every `run` return after its current row."""
        self._stopping = True
        self._more.set()

    async def run(self) -> None:
        """Ask about one row after another, until stopped."""
        while (row := await self._next_row()) is not None:
            self._ledger.ask(row.key)
            try:
                result = await self._ask(row)
                if result is None:
                    self._requeue(row)
                    continue
                await self._store(row, result)
            except asyncio.CancelledError:
                self._ledger.requeue(row.key)
                raise
            except Exception:
                # The row stays claimed: asking again would meet, and pay for, the same defect.
                log.exception("shadow row failed", seq=row.seq)
                self._lose(row)
            else:
                del self._claimed[row.seq]
                await self._view.refresh(LOOK_SECONDS)
                if due(self._view.ledger):
                    await self._tighten()
                await self._watch.repeat(row, result)

    async def _next_row(self) -> PendingRow | None:
        """Wait for the next row to ask about and return it; None when stopped."""
        async with self._claiming:
            while not self._stopping:
                if (seconds := self._teacher.hold_seconds) > 0:
                    await self._pause(seconds)
                elif not self._next_rows:
                    await self._claim()
                elif (row := self._next_rows.popleft()) and self._may_ask(row):
                    return row
            return None

    def _may_ask(self, row: PendingRow) -> bool:
        """Return whether a row is still this process's to ask about; leave it to others if not."""
        if time.monotonic() <= self._ask_until.get(row.seq, math.inf):
            return True
        del self._claimed[row.seq], self._ask_until[row.seq]
        self._ledger.leave(row.key)
        return False

    def _requeue(self, row: PendingRow) -> None:
        """Make a row the next to be asked about."""
        self._ledger.requeue(row.key)
        self._next_rows.appendleft(row)
        self._more.set()

    async def _pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until there is a new row."""
        self._more.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._more.wait(), seconds)

    async def _claim(self) -> None:
        """Claim pending rows; if there are none, wait until some may have been stored."""
        self._more.clear()
        before, now = list(self._ledger.in_outbox.elements()), time.monotonic()
        try:
            rows = await self._thread.call(self._outbox.pending, self._settings.concurrency, frozenset(self._claimed))
        except OutboxError as error:
            await self._outbox_failed(error)
            return
        self._failing = False
        if rows:
            self._next_rows.extend(rows)
            self._claimed.update((row.seq, self._since(row)) for row in rows)
            if self._outbox.shared:
                self._take(rows, now)
            return
        if self._outbox.shared:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._more.wait(), POLL_SECONDS)
            return
        # Rows that the ledger still counts as stored are missing: the file was deleted or replaced.
        self._stored_since.clear()
        for key in before:
            self._ledger.lose_stored(key)
        await self._more.wait()

    def _take(self, rows: Sequence[PendingRow], since: float) -> None:
        """Count rows of a shared outbox that are this process's since this time, by the monotonic clock."""
        # Each may wait for one other call before its own, and both have the deadline.
        until = since + self._settings.lease_seconds - 2 * self._settings.deadline_seconds
        for row in rows:
            self._ask_until[row.seq] = until
            self._ledger.take(row.key)

    def _lose(self, row: PendingRow) -> None:
        """Count the end of a row whose outcome is not stored by this process."""
        if self._outbox.shared:
            self._ledger.lose_to_others(row.key)
        else:
            self._ledger.lose_in_flight(row.key)

    def _since(self, row: PendingRow) -> float:
        """Return the monotonic time at which a row's text was answered.

        For a row of an earlier process it follows from the row's age when this process started. An impossible age,
        which means that a clock was wrong, counts as 0.
        """
        wall, monotonic = self._started
        age = wall - row.time
        return self._stored_since.pop(row.id, monotonic - (age if 0.0 <= age <= OLDEST_SECONDS else 0.0))

    async def _ask(self, row: PendingRow) -> RowResult | None:
        """Ask the teacher about a row; None if the call failed because its server asks for no more calls."""
        reserved = self.budget.reserve()
        if reserved is None:
            return RowResult(Outcome.BUDGET, time.time())
        ticket = self.breaker.allow()
        if ticket is None:
            self.budget.release(reserved)
            return RowResult(Outcome.BREAKER_OPEN, time.time())
        start = time.perf_counter()
        result = await self._teacher.ask(row.text)
        seconds = time.perf_counter() - start
        if result.outcome in FAILURES and self._teacher.hold_seconds > 0:
            self.breaker.release(ticket)
            self.budget.release(reserved)
            return None
        self._timed(result.outcome, seconds)
        self.breaker.record(ticket, success=result.outcome not in FAILURES)
        self._teacher.settle(reserved, result)
        return self._row_result(row, result, seconds)

    def _row_result(self, row: PendingRow, result: TeacherResult, seconds: float) -> RowResult:
        """Return what to store for a row after a call to the teacher."""
        answer = comparison = None
        if result.probabilities is not None:
            calibrated = result.probabilities if self._scaling is None else self._scaling.apply(result.probabilities)
            student = np.frombuffer(row.probabilities, dtype="<f4")
            comparison = compare(student, calibrated, self._decision, row.novel)
            answer = result.probabilities.astype("<f4").tobytes()
        return RowResult(
            outcome=result.outcome,
            answered=time.time(),
            answer=answer,
            method=result.method,
            comparison=comparison,
            tokens=result.tokens,
            cost_usd=result.cost_usd or 0.0,
            seconds=seconds,
            model=result.model,
            fingerprint=result.fingerprint,
        )

    async def _store(self, row: PendingRow, result: RowResult) -> None:
        """Store a result, retrying for as long as the outbox cannot be written; then count it."""
        while True:
            try:
                stored = await self._thread.call(self._outbox.finish, row.seq, result)
            except OutboxError as error:
                await self._outbox_failed(error)
            else:
                break
        self._failing = False
        self._ask_until.pop(row.seq, None)
        if not stored:
            self._lose(row)
            return
        self._watch.models.count(result.model, result.fingerprint, result.answered)
        self._ledger.finish(row.key, result.outcome)
        self._ledger.add_cost(row.key, result.cost_usd, result.tokens)
        if result.comparison is not None:
            self._ledger.compare(row.key, result.answered, result.comparison)

    async def _tighten(self) -> None:
        """Set the ceilings once more; if that fails, it is tried again after the next row."""
        async with self._tightening:
            if due(self._view.ledger):  # not done by another worker meanwhile
                try:
                    await tighten(self._view.ledger, self._outbox, self._thread)
                except Exception as error:
                    log.warning("shadow could not lower ceilings", error=str(error))

    async def _outbox_failed(self, error: OutboxError) -> None:
        """Log the first of a series of outbox errors, and pause."""
        if not self._failing:
            log.error("shadow worker waits for the outbox", error=str(error))
        self._failing = True
        await asyncio.sleep(self._settings.flush_seconds)
