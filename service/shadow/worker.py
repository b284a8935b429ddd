"""The worker: shows waiting rows to the teacher, compares the answers, and brings every row to its outcome.

An answer is stored before it is counted. While the outbox cannot be written, an answer is held and nothing more is
asked, so that nothing paid for is lost. How many are asked at once, the pipeline decides by how often it runs `run`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from random import Random

import numpy as np
import numpy.typing as npt
import structlog

from distill.teachers import Answer, Teacher, TeacherError, label_order
from distill.teachers.scaling import Scaling
from export.bundle.guard import is_panic
from service.shadow.breaker import Breaker
from service.shadow.budget import Budget
from service.shadow.comparison import Comparison, compare
from service.shadow.errors import OutboxError
from service.shadow.ledger import Ledger, Outcome
from service.shadow.outbox import Outbox
from service.shadow.rows import Ending, WaitingRow
from service.shadow.settings import ShadowSettings
from service.shadow.thread import OutboxThread
from service.shadow.writer import Record

SUM_TOLERANCE = 0.01  # of probabilities to 1
OLDEST_SECONDS = 30 * 86400.0
"""Longest that a row can have waited for a process; a greater age is a clock's error."""

FAILURES = (Outcome.TIMEOUT, Outcome.TEACHER_ERROR)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of asking for one text: `probabilities`, float32 [K] in the student's order, only when completed."""

    outcome: Outcome
    probabilities: npt.NDArray[np.float32] | None = None
    method: str | None = None
    tokens: int = 0
    cost_usd: float | None = None


class Worker:
    """Takes rows from the outbox, oldest first. `timed` is told how long the teacher took for which outcome.

    A student is compared with what it learned from: with the teacher's answer as `scaling` calibrates it, where the
    teacher was calibrated. The answer itself is stored as the teacher gave it.

    Raises TeacherError when the teacher does not know the labels.
    """

    def __init__(
        self,
        settings: ShadowSettings,
        outbox: Outbox,
        thread: OutboxThread,
        ledger: Ledger,
        teacher: Teacher,
        labels: Sequence[str],
        timed: Callable[[Outcome, float], None],
        scaling: Scaling | None = None,
    ) -> None:
        self.breaker = Breaker()
        self.budget = Budget(settings.usd_per_hour)
        self._settings = settings
        self._outbox, self._thread, self._ledger, self._teacher = outbox, thread, ledger, teacher
        self._order = label_order(teacher.labels, labels, f"the teacher {teacher.name}")
        self._timed = timed
        self._scaling = scaling
        self._jitter = Random()
        self._claimed: deque[WaitingRow] = deque()
        self._held: dict[int, float] = {}
        self._stored: dict[str, float] = {}
        self._began = (time.time(), time.monotonic())
        self._claiming = asyncio.Lock()
        self._more = asyncio.Event()
        self._stopping = False
        self._failing = False

    @property
    def oldest(self) -> float | None:
        """When the oldest text of those that are asked, or that this process stored, was answered: monotonic."""
        return min([*self._held.values(), *islice(self._stored.values(), 1)], default=None)

    def stored(self, records: Sequence[Record]) -> None:
        """Look for rows: these are in the outbox now."""
        self._stored.update((record.id, record.since) for record in records)
        self._more.set()

    def stop(self) -> None:
        """Let every `run` end after the row it is at."""
        self._stopping = True
        self._more.set()

    async def run(self) -> None:
        """Bring one row after the other to its outcome, until stopped."""
        while (row := await self._next()) is not None:
            self._ledger.ask(row.band)
            try:
                ended = await self._ask(row)
                if ended is None:
                    self._put_back(row)
                    continue
                await self._keep(row, *ended)
            except asyncio.CancelledError:
                self._ledger.put_back(row.band)
                raise
            except Exception:
                # The row stays held: to ask again would meet, and pay for, the same defect.
                log.exception("shadow row failed", seq=row.seq)
                self._ledger.lose_asked(row.band)
            else:
                del self._held[row.seq]

    async def _next(self) -> WaitingRow | None:
        """Wait for the next row to ask for; None when stopped."""
        async with self._claiming:
            while not self._stopping:
                if (seconds := self._left_alone) > 0:
                    await self._pause(seconds)
                elif self._claimed:
                    return self._claimed.popleft()
                else:
                    await self._claim()
            return None

    @property
    def _left_alone(self) -> float:
        """For how many seconds the teacher's server asked to be left alone."""
        held: float = getattr(self._teacher, "held", 0.0)
        return held

    def _put_back(self, row: WaitingRow) -> None:
        """Have a row wait like those that were not asked yet."""
        self._ledger.put_back(row.band)
        self._claimed.appendleft(row)
        self._more.set()

    async def _pause(self, seconds: float) -> None:
        """Leave the teacher alone for as long as its server asked; rows wait in the outbox. A new row ends it early."""
        self._more.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._more.wait(), seconds)

    async def _claim(self) -> None:
        """Take waiting rows, or wait until there may be some."""
        self._more.clear()
        known = list(self._ledger.stored)
        try:
            rows = await self._thread.call(self._outbox.waiting, self._settings.concurrency, frozenset(self._held))
        except OutboxError as error:
            await self._complain(error)
            return
        self._failing = False
        if rows:
            self._claimed.extend(rows)
            self._held.update((row.seq, self._since(row)) for row in rows)
            return
        self._stored.clear()
        for band, count in enumerate(known):
            for _ in range(count):
                self._ledger.vanish(band)
        await self._more.wait()

    def _since(self, row: WaitingRow) -> float:
        """When a row was answered, by the monotonic clock.

        Of a row of an earlier process by its age at the start of this one. One that cannot be, since a clock was wrong
        then or is now, counts from the start.
        """
        wall, monotonic = self._began
        age = wall - row.time
        return self._stored.pop(row.id, monotonic - (age if 0.0 <= age <= OLDEST_SECONDS else 0.0))

    async def _ask(self, row: WaitingRow) -> tuple[Ending, Comparison | None] | None:
        """Ask for a row; None where nothing came of it since the teacher's server asks to be left alone."""
        reserved = self.budget.reserve()
        if reserved is None:
            return Ending(Outcome.BUDGET, time.time()), None
        ticket = self.breaker.allow()
        if ticket is None:
            self.budget.release(reserved)
            return Ending(Outcome.BREAKER_OPEN, time.time()), None
        start = time.perf_counter()
        reply = await self._call(row.text)
        seconds = time.perf_counter() - start
        if reply.outcome in FAILURES and self._left_alone > 0:
            self.breaker.release(ticket)
            self.budget.release(reserved)
            return None
        self._timed(reply.outcome, seconds)
        self.breaker.record(ticket, success=reply.outcome not in FAILURES)
        self._settle(reserved, reply)
        return self._ending(row, reply, seconds)

    async def _call(self, text: str) -> Reply:
        """Ask the teacher within the deadline; whatever it does becomes an outcome."""
        try:
            async with asyncio.timeout(self._settings.deadline_seconds):
                answers = await self._attempts(text)
        except TimeoutError:
            return Reply(Outcome.TIMEOUT)
        except TeacherError as error:
            # Not what it says: that may repeat the text, or a key.
            status = getattr(error, "status", None)
            log.warning("shadow teacher failed", teacher=self._teacher.name, kind=type(error).__name__, status=status)
            return Reply(Outcome.TEACHER_ERROR)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return Reply(Outcome.TEACHER_ERROR)  # something inside the teacher was cancelled, not this task
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            log.error("shadow teacher failed", teacher=self._teacher.name, exc_info=error)
            return Reply(Outcome.TEACHER_ERROR)
        return read_reply(answers, self._order)

    async def _attempts(self, text: str) -> object:
        try:
            return await self._teacher.ask([text])
        except TeacherError as error:
            if not error.retryable:
                raise
        await asyncio.sleep(self._jitter.uniform(0.0, self._settings.retry_seconds))
        return await self._teacher.ask([text])

    def _settle(self, reserved: float, reply: Reply) -> None:
        """Settle with the budget. A call that failed is not charged; one not heard out may be, so it stays reserved."""
        if reply.cost_usd is not None:
            self.budget.settle(reserved, reply.cost_usd)
        elif reply.outcome is not Outcome.TIMEOUT:
            self.budget.release(reserved)

    def _ending(self, row: WaitingRow, reply: Reply, seconds: float) -> tuple[Ending, Comparison | None]:
        cost_usd = reply.cost_usd or 0.0
        if reply.probabilities is None:
            ending = Ending(reply.outcome, time.time(), tokens=reply.tokens, cost_usd=cost_usd, seconds=seconds)
            return ending, None
        taught = reply.probabilities if self._scaling is None else self._scaling.apply(reply.probabilities)
        comparison = compare(np.frombuffer(row.probabilities, dtype="<f4"), taught)
        ending = Ending(
            outcome=reply.outcome,
            answered=time.time(),
            answer=reply.probabilities.astype("<f4").tobytes(),
            method=reply.method,
            agree=comparison.agree,
            kl=comparison.kl,
            js=comparison.js,
            tokens=reply.tokens,
            cost_usd=cost_usd,
            seconds=seconds,
        )
        return ending, comparison

    async def _keep(self, row: WaitingRow, ending: Ending, comparison: Comparison | None) -> None:
        """Store an outcome, however long the disk takes to come back, then count it."""
        while True:
            try:
                kept = await self._thread.call(self._outbox.finish, row.seq, ending)
            except OutboxError as error:
                await self._complain(error)
            else:
                break
        self._failing = False
        if not kept:
            self._ledger.lose_asked(row.band)
            return
        self._ledger.finish(row.band, ending.outcome)
        self._ledger.pay(row.band, ending.cost_usd, ending.tokens)
        if comparison is not None:
            self._ledger.compare(row.band, row.propensity, comparison)

    async def _complain(self, error: OutboxError) -> None:
        """Say once that the outbox fails, and wait a moment."""
        if not self._failing:
            log.error("shadow worker waits for the outbox", error=str(error))
        self._failing = True
        await asyncio.sleep(self._settings.flush_seconds)


def read_reply(answers: object, order: npt.NDArray[np.intp]) -> Reply:
    """Check what a teacher returned for one text, and bring it into the `order` [K] of the student's labels."""
    answer = answers[0] if isinstance(answers, Sequence) and len(answers) == 1 else None
    if not isinstance(answer, Answer):
        return Reply(Outcome.INVALID_ANSWER)
    tokens, cost_usd = int(min(_amount(answer.tokens), 2**53)), _amount(answer.cost_usd)
    if answer.outcome == "refused" or (answer.outcome == "invalid" and answer.said):  # the server would not take it
        return Reply(Outcome.REFUSED, tokens=tokens, cost_usd=cost_usd)
    try:
        probabilities = np.asarray(answer.probabilities, dtype=np.float32)
    except (TypeError, ValueError):
        probabilities = np.empty(0, dtype=np.float32)
    # Written so that NaN fails it too.
    proper = probabilities.shape == order.shape and bool(
        np.all(probabilities >= 0) and abs(float(probabilities.sum()) - 1.0) <= SUM_TOLERANCE
    )
    if answer.outcome != "ok" or not proper:
        return Reply(Outcome.INVALID_ANSWER, tokens=tokens, cost_usd=cost_usd)
    return Reply(Outcome.COMPLETED, probabilities[order], str(answer.method), tokens, cost_usd)


def _amount(value: object) -> float:
    """Return a count or a price as a teacher gave it; 0 for what is none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else 0.0
