"""Dry run: list the calls that a teacher still has to make for a pool, and what earlier calls took, without any call.

`distill.labelling.forecast` computes the cost and the time from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

import numpy as np

from distill.labelling.account import StoredAccount
from distill.labelling.forecast import Forecast, ObservedCosts, PlannedCalls, forecast
from distill.teachers.account import BudgetError, PaidResponse
from distill.teachers.api.client import BYTES_PER_TOKEN, Api, ApiRequest
from distill.teachers.api.rejections import rejection
from distill.teachers.api.teacher import Calling, CallingTeacher

_SAMPLE = 500  # answered texts to learn from
_MINUTE = 60.0


class DryRunAccount:
    """An account that refuses every call. `recalled` collects the earlier calls that a text's answer used."""

    def __init__(self, stored: StoredAccount) -> None:
        self.stored = stored
        self.recalled: list[PaidResponse] = []

    async def recall(self, key: str) -> PaidResponse | None:
        """Return the paid response with this key, or None."""
        paid = await self.stored.recall(key)
        # A probe's verdict costs nothing and took no time, and a rejection is no part of an answer.
        if paid is not None and (paid.cost_usd or paid.seconds) and rejection(paid.response) is None:
            self.recalled.append(paid)
        return paid

    async def reserve(self, usd: float) -> int:
        """Raise BudgetError."""
        raise BudgetError("a dry run makes no calls")

    async def settle(self, reservation: int, cost_usd: float, key: str = "", paid: PaidResponse | None = None) -> None:
        """Do nothing, since nothing is reserved."""


@dataclass(slots=True)
class _CallTotals:
    """Totals over the calls to one API."""

    count: int = 0
    request_bytes: int = 0
    most_output: int = 0


@dataclass(slots=True)
class _Findings:
    """The sizes in bytes of texts that need calls, those calls by API, and (size, paid calls) of answered texts."""

    sizes: list[int] = field(default_factory=list)
    calls: dict[Api, _CallTotals] = field(default_factory=dict)
    answered: list[tuple[int, Sequence[PaidResponse]]] = field(default_factory=list)

    def add(self, text: str, calls: Sequence[tuple[Api, ApiRequest]], paid: Sequence[PaidResponse]) -> None:
        """Add one text, the calls that it needs and those that were paid for it."""
        size = len(text.encode("utf-8", "surrogatepass"))
        if calls:
            self.sizes.append(size)
        elif paid and len(self.answered) < 2 * _SAMPLE:
            self.answered.append((size, paid))
        for api, request in calls:
            totals = self.calls.setdefault(api, _CallTotals())
            totals.count += 1
            totals.request_bytes += request.max_tokens
            totals.most_output += request.max_output


class Stored(Protocol):
    """Says which answers are stored, as `AnswerStore` does."""

    def has(self, teacher: Any, text: str, repeat: int = 0) -> bool:
        """Whether the answer to a text is stored."""


def priced(teacher: object) -> TypeGuard[CallingTeacher]:
    """Whether a teacher, or a class of teachers, answers with paid calls that it can list."""
    return hasattr(teacher, "plan")


async def dry_run(
    teacher: Calling,
    questions: Iterable[tuple[str, int]],
    store: Stored,
    account: DryRunAccount,
    advance: Callable[[int], None] = lambda count: None,
) -> Forecast:
    """Forecast what the `questions` (texts, each with its repeat) that the store lacks will cost.

    `account` must be the teacher's account.
    """
    distinct = list(dict.fromkeys(questions))
    new = [one for one in distinct if not store.has(teacher, *one)]
    lacking = set(new)
    answered = [one for one in distinct if one not in lacking]
    found = _Findings()
    for text, repeat in (*new, *answered[:: max(1, -(-len(answered) // _SAMPLE))]):
        account.recalled.clear()
        calls = await teacher.plan(text, repeat)
        # An answered text lists calls if its rejection was doubtful: those were not kept.
        if (text, repeat) in lacking or not calls:
            found.add(text, calls, tuple(account.recalled))
        advance(1)
    return forecast(
        teacher.name,
        len(distinct),
        len(new),
        np.array(found.sizes, dtype=np.float64),
        [_planned(api, totals) for api, totals in found.calls.items()],
        _observed(found),
        account.stored.spent,
    )


def _planned(api: Api, totals: _CallTotals) -> PlannedCalls:
    tokens = totals.request_bytes / BYTES_PER_TOKEN + totals.most_output
    limits = ((totals.count, api.config.requests_per_minute), (tokens, api.config.tokens_per_minute))
    return PlannedCalls(
        price=api.price,
        calls=totals.count,
        request_bytes=totals.request_bytes,
        most_output=totals.most_output,
        slots=api.config.concurrency,
        least_seconds=max(_MINUTE * amount / limit if limit else 0.0 for amount, limit in limits),
    )


def _observed(found: _Findings) -> ObservedCosts:
    """What the answered texts took; at today's price if the calls to make go to one API only."""
    only = next(iter(found.calls)) if len(found.calls) == 1 else None

    def cost(paid: PaidResponse) -> float:
        usage = only.usage(paid.response) if only else None
        return paid.cost_usd if only is None or usage is None else only.price.cost(usage)

    return ObservedCosts(
        sizes=np.array([size for size, _ in found.answered], dtype=np.float64),
        calls=np.array([len(paid) for _, paid in found.answered], dtype=np.float64),
        usd=np.array([sum(map(cost, paid)) for _, paid in found.answered], dtype=np.float64),
        seconds=np.array([sum(one.seconds for one in paid) for _, paid in found.answered], dtype=np.float64),
    )
