"""How a sampled text ends: with a comparison, or lost for one of the other reasons."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How a sampled text ended."""

    COMPLETED = "completed"
    QUEUE_FULL = "queue_full"
    BUDGET = "budget"
    BREAKER_OPEN = "breaker_open"
    TIMEOUT = "timeout"
    TEACHER_ERROR = "teacher_error"
    INVALID_ANSWER = "invalid_answer"
    REFUSED = "refused"
    STORE_ERROR = "store_error"
    SHUTDOWN = "shutdown"


OUTCOMES = tuple(Outcome)
POSITION = {outcome: index for index, outcome in enumerate(OUTCOMES)}
