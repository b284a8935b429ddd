"""Ask the teacher about one text on request, for the console: what `POST /gap/ask` does.

Such an answer enters no count, because its text was not drawn by chance. It is paid from the budget of the comparisons,
and gives way to them: one text at a time, a few a minute, and none while the breaker is not closed, the budget is spent
or the teacher's server asked to wait.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distill.teachers.scaling import Scaling
from service.errors import NotReadyError, RateLimitedError
from service.shadow.breaker import State
from service.shadow.outbox.thread import OutboxThread
from service.shadow.outcome import Outcome
from service.shadow.redaction.redact import redact
from service.shadow.settings import ShadowSettings
from service.shadow.teacher import TeacherCaller

PER_MINUTE = 6
"""Texts asked about in any minute, so that nobody who plays spends what the comparisons need."""

SHOWN = 5
"""Labels in an answer."""


class Questions:
    """Asks one teacher. `scaling` is its calibration, if it has one; `clock` returns seconds."""

    def __init__(
        self,
        settings: ShadowSettings,
        teacher: TeacherCaller,
        thread: OutboxThread,
        labels: Sequence[str],
        scaling: Scaling | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._countries = settings.phone_countries
        self._teacher, self._thread, self._labels, self._scaling = teacher, thread, labels, scaling
        self._clock = clock
        self._asked: deque[float] = deque()
        self._busy = False

    async def ask(self, text: str) -> dict[str, Any]:
        """Return the teacher's best labels for a text as it was sent, redacted, with the outcome and the cost.

        `top` is empty unless the outcome is `completed`. Raises RateLimitedError, NotReadyError.
        """
        self._admit()
        self._busy = True
        try:
            sent = (await self._thread.call(redact, text, self._countries)).text
            reserved = self._teacher.budget.reserve()
            if reserved is None:
                raise RateLimitedError("the budget of shadowing is spent; try again later", retry_after=60)
            result = await self._teacher.ask(sent)
            self._teacher.settle(reserved, result)
        finally:
            self._busy = False
        return {
            "text": sent,
            "outcome": str(result.outcome),
            "top": self._top(result.probabilities) if result.outcome is Outcome.COMPLETED else [],
            "cost_usd": result.cost_usd,
        }

    def _admit(self) -> None:
        """Count a question. Raises RateLimitedError, NotReadyError."""
        now = self._clock()
        while self._asked and now - self._asked[0] >= 60.0:
            self._asked.popleft()
        if self._busy:
            raise RateLimitedError(
                "the teacher is being asked about another text; try again in a moment", retry_after=1
            )
        if len(self._asked) >= PER_MINUTE:
            left = max(math.ceil(60.0 - (now - self._asked[0])), 1)
            raise RateLimitedError(
                f"the teacher is asked about {PER_MINUTE} texts a minute at most; try again in {left} s",
                retry_after=left,
            )
        if self._teacher.breaker.state is not State.CLOSED or self._teacher.hold_seconds > 0:
            raise NotReadyError("the teacher fails or asked for a pause; try again in a minute")
        self._asked.append(now)

    def _top(self, probabilities: Any) -> list[dict[str, Any]]:
        calibrated = probabilities if self._scaling is None else self._scaling.apply(probabilities)
        best = np.argsort(-calibrated, kind="stable")[:SHOWN]
        return [{"label": self._labels[index], "score": round(float(calibrated[index]), 6)} for index in best]
