"""What the calls behind an answer add to it: tokens, cost, the model that answered, and why a text was rejected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from distill.teachers.account import PaidResponse
from distill.teachers.api import rejections
from distill.teachers.api.identity import identity
from distill.teachers.api.pricing import Usage
from distill.teachers.base import Answer


def with_calls(
    answer: Answer,
    calls: Sequence[PaidResponse],
    seconds: float,
    usage_of: Callable[[Mapping[str, Any]], Usage | None],
) -> Answer:
    """Return `answer` with what its `calls` took and state; `seconds` is how long they took together.

    A `reason` is that of a rejection by the server, for an answer that is not `ok`; other words are dropped.
    """
    responses = [call.response for call in calls]
    usages = [usage for response in responses if (usage := usage_of(response)) is not None]
    reason, doubtful = ("", False) if answer.outcome == "ok" else rejections.reason_among(responses)
    model, fingerprint = identity(responses)
    return replace(
        answer,
        tokens=sum(usage.total for usage in usages),
        cost_usd=sum(call.cost_usd for call in calls),
        seconds=seconds,
        reason=reason,
        doubtful=doubtful,
        model=model,
        fingerprint=fingerprint,
    )
