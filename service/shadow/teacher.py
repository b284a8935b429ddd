"""Calls to the teacher: how it is made, its deadline and retry, the check of its answers."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import structlog
from pydantic import ValidationError

from distill.teachers import Answer, Teacher, TeacherError, create, label_order
from distill.teachers.api.identity import joined
from export.bundle.guard import is_panic
from service.shadow.breaker import Breaker
from service.shadow.budget import Budget
from service.shadow.errors import ShadowError
from service.shadow.outcome import Outcome
from service.shadow.settings import ShadowSettings

SUM_TOLERANCE = 0.01
"""How far the sum of a teacher's probabilities may be from 1."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TeacherResult:
    """The outcome of one call to the teacher.

    `probabilities` are float32 [K] in the student's order of labels, None unless the outcome is COMPLETED. `cost_usd`
    is None if the call failed. `model` and `fingerprint` are as the teacher's responses state them.
    """

    outcome: Outcome
    probabilities: npt.NDArray[np.float32] | None = None
    method: str | None = None
    tokens: int = 0
    cost_usd: float | None = None
    model: str | None = None
    fingerprint: str | None = None


def make_teacher(settings: ShadowSettings, labels: Sequence[str]) -> Teacher:
    """Make the teacher that the settings name. Raises ShadowError if there is none or it is unavailable."""
    if settings.teacher is None:
        raise ShadowError(
            'shadow.enabled needs shadow.teacher, such as {"kind": "bundle", "path": "teacher-bundle"}; '
            "set it, or set shadow.enabled to false"
        )
    return teacher_from(settings.teacher, labels, "shadow.teacher", settings.deadline_seconds)


def teacher_from(config: dict[str, Any], labels: Sequence[str], name: str, deadline_seconds: float) -> Teacher:
    """Make the teacher of the setting called `name`, for a TeacherCaller with this deadline.

    The caller makes a second attempt. With retries of the teacher's own, and their longer and longer pauses, a server
    that is down would keep each text until its deadline, and look like one that is slow. Raises ShadowError, naming the
    setting, if the teacher is unavailable.
    """
    try:
        return create(config, labels, retried_within=deadline_seconds)
    except (TeacherError, ImportError) as error:
        raise ShadowError(f"{name}: {error}") from error
    except ValidationError as error:  # its own message would repeat the input, which may hold a key
        wrong = error.errors(include_input=False, include_context=False, include_url=False)
        lines = (".".join((name, *map(str, item["loc"]))) + f": {item['msg']}" for item in wrong)
        raise ShadowError("; ".join(lines)) from None


class CallLimits(Protocol):
    """What settings say about calls to a teacher. Durations are in seconds."""

    @property
    def concurrency(self) -> int:
        """Maximum number of concurrent calls."""

    @property
    def deadline_seconds(self) -> float:
        """Time limit for one text, both attempts together."""

    @property
    def retry_seconds(self) -> float:
        """Maximum of the random pause before the second attempt."""


class TeacherCaller:
    """Asks `teacher` about single texts, with the answers in the order of the student's `labels`.

    Who asks goes by its `breaker` and its `budget`.

    Raises TeacherError if the teacher's labels are not the same.
    """

    def __init__(self, settings: CallLimits, budget: Budget, teacher: Teacher, labels: Sequence[str]) -> None:
        self.breaker, self.budget = Breaker(), budget
        self._settings, self._teacher = settings, teacher
        self._order = label_order(teacher.labels, labels, f"the teacher {teacher.name}")
        self._orders = int(getattr(teacher, "orders", 1))
        self._slots = asyncio.Semaphore(min(settings.concurrency, teacher.concurrency))
        self._jitter = Random()

    def settle(self, reserved: float, result: TeacherResult) -> None:
        """Settle with the budget. A failed call costs nothing; one that timed out may cost, so it stays reserved."""
        if result.cost_usd is not None:
            self.budget.settle(reserved, result.cost_usd)
        elif result.outcome is not Outcome.TIMEOUT:
            self.budget.release(reserved)

    @property
    def hold_seconds(self) -> float:
        """Seconds for which the teacher's server asked for no more calls; 0 if it did not."""
        held: float = getattr(self._teacher, "held", 0.0)
        return held

    async def ask(self, text: str, draw: int = 0) -> TeacherResult:
        """Ask about a text, within `deadline_seconds`. Every failure becomes an outcome.

        Another `draw` is the very same question, but an answer from a cache is not accepted. At most `concurrency`
        texts are asked about at once, others wait.
        """
        async with self._slots:
            return await self._ask(text, draw * self._orders)

    async def _ask(self, text: str, repeat: int) -> TeacherResult:
        try:
            async with asyncio.timeout(self._settings.deadline_seconds):
                answers = await self._attempt_twice(text, repeat, time.monotonic() + self._settings.deadline_seconds)
        except TimeoutError:
            return TeacherResult(Outcome.TIMEOUT)
        except TeacherError as error:
            # The message is not logged: it may repeat the text, or a key.
            status = getattr(error, "status", None)
            log.warning("teacher failed", teacher=self._teacher.name, kind=type(error).__name__, status=status)
            return TeacherResult(Outcome.TEACHER_ERROR)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return TeacherResult(Outcome.TEACHER_ERROR)  # cancelled inside the teacher, not this task
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            log.error("teacher failed", teacher=self._teacher.name, exc_info=error)
            return TeacherResult(Outcome.TEACHER_ERROR)
        return self._read(answers)

    async def _attempt_twice(self, text: str, repeat: int, deadline: float) -> object:
        try:
            return await self._teacher.ask([text], repeat)
        except TeacherError as error:
            if not error.retryable or time.monotonic() + self.hold_seconds >= deadline:
                raise
        await asyncio.sleep(self._jitter.uniform(0.0, self._settings.retry_seconds))
        return await self._teacher.ask([text], repeat)

    def _read(self, answers: object) -> TeacherResult:
        """Check what the teacher returned for one text, and bring it into the student's order of labels."""
        answer = answers[0] if isinstance(answers, Sequence) and len(answers) == 1 else None
        if not isinstance(answer, Answer):
            return TeacherResult(Outcome.INVALID_ANSWER)
        result = partial(
            TeacherResult,
            tokens=int(min(_amount(answer.tokens), 2**53)),
            cost_usd=_amount(answer.cost_usd),
            model=joined([answer.model]),
            fingerprint=joined([answer.fingerprint]),
        )
        rejected = answer.outcome == "invalid" and answer.reason  # by the teacher's server, before the model
        if answer.outcome == "refused" or rejected:
            return result(Outcome.REFUSED)
        try:
            probabilities = np.asarray(answer.probabilities, dtype=np.float32)
        except (TypeError, ValueError):
            probabilities = np.empty(0, dtype=np.float32)
        # Written so that NaN fails it too.
        proper = probabilities.shape == self._order.shape and bool(
            np.all(probabilities >= 0) and abs(float(probabilities.sum()) - 1.0) <= SUM_TOLERANCE
        )
        if answer.outcome != "ok" or not proper:
            return result(Outcome.INVALID_ANSWER)
        return result(Outcome.COMPLETED, probabilities[self._order], str(answer.method))


def _amount(value: object) -> float:
    """Return a count or a price that a teacher gave, or 0 if it is not a positive finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else 0.0
