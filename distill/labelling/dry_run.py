"""Finds out, without making a call, which calls a teacher has still to make for a pool, and what those before took.

What follows from that for cost and time is `distill.labelling.forecast`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard

import numpy as np

from distill.labelling.account import Cashbook
from distill.labelling.forecast import Forecast, Planned, Seen, forecast
from distill.labelling.label import AnswerStore
from distill.teachers import Teacher
from distill.teachers.account import BudgetError, Paid
from distill.teachers.api.client import BYTES_PER_TOKEN, Api, Priced, Request
from distill.teachers.api.rejections import rejection

_SAMPLE = 500  # answered texts to learn from
_MINUTE = 60.0


class PricedTeacher(Teacher, Priced, Protocol):
    """A teacher whose answers are calls."""


class Ledger:
    """An account to plan with: it knows what was paid, notes which calls are recalled, and never pays."""

    def __init__(self, book: Cashbook) -> None:
        self.book = book
        self.recalled: list[Paid] = []

    async def recall(self, key: str) -> Paid | None:
        """The response that was paid for under this key, if one was."""
        paid = await self.book.recall(key)
        # What an agreement took is no call's, and what a rejection took is no answer's.
        if paid is not None and (paid.cost_usd or paid.seconds) and rejection(paid.response) is None:
            self.recalled.append(paid)
        return paid

    async def reserve(self, usd: float) -> int:
        """Raise BudgetError: a plan makes no calls."""
        raise BudgetError("a plan makes no calls")

    async def settle(self, reservation: int, cost_usd: float, key: str = "", paid: Paid | None = None) -> None:
        """There is nothing to settle."""


@dataclass(slots=True)
class _Calls:
    """The calls to one API, added up."""

    count: int = 0
    request_bytes: int = 0
    most_output: int = 0


@dataclass(slots=True)
class _Plan:
    """What was found out of a pool: texts that need calls, the calls by API, and what some texts took before."""

    sizes: list[int] = field(default_factory=list)
    calls: dict[Api, _Calls] = field(default_factory=dict)
    seen: list[tuple[int, Sequence[Paid]]] = field(default_factory=list)


def priced(teacher: object) -> TypeGuard[PricedTeacher]:
    """Whether the answers of a teacher, or of a class of them, are calls that can be planned, and so are paid for."""
    return hasattr(teacher, "plan")


async def foresee(
    teacher: PricedTeacher,
    questions: Iterable[tuple[str, int]],
    store: AnswerStore,
    ledger: Ledger,
    advance: Callable[[int], None] = lambda count: None,
) -> Forecast:
    """The forecast for those texts, each with its repeat, that the store lacks.

    The teacher's account is the ledger, so that nothing is paid.
    """
    distinct = list(dict.fromkeys(questions))
    new = [one for one in distinct if not store.has(teacher, *one)]
    lacking = set(new)
    answered = [one for one in distinct if one not in lacking]
    plan = _Plan()
    for text, repeat in (*new, *answered[:: max(1, -(-len(answered) // _SAMPLE))]):
        ledger.recalled.clear()
        calls = await teacher.plan(text, repeat)
        if (text, repeat) in lacking or not calls:  # a text whose rejection was not sure has calls that were not kept
            _note(plan, text, calls, tuple(ledger.recalled))
        advance(1)
    return forecast(
        teacher.name,
        len(distinct),
        len(new),
        np.array(plan.sizes, dtype=np.float64),
        [_planned(api, calls) for api, calls in plan.calls.items()],
        _seen(plan),
        ledger.book.spent,
    )


def _note(plan: _Plan, text: str, calls: Sequence[tuple[Api, Request]], paid: Sequence[Paid]) -> None:
    """Add what was found out of one text."""
    size = _size(text)
    if calls:
        plan.sizes.append(size)
    elif paid and len(plan.seen) < 2 * _SAMPLE:
        plan.seen.append((size, paid))
    for api, request in calls:
        sums = plan.calls.setdefault(api, _Calls())
        sums.count += 1
        sums.request_bytes += request.most_tokens
        sums.most_output += request.max_output


def _planned(api: Api, calls: _Calls) -> Planned:
    tokens = calls.request_bytes / BYTES_PER_TOKEN + calls.most_output
    limits = ((calls.count, api.config.requests_per_minute), (tokens, api.config.tokens_per_minute))
    return Planned(
        price=api.price,
        calls=calls.count,
        request_bytes=calls.request_bytes,
        most_output=calls.most_output,
        slots=api.config.concurrency,
        least_seconds=max(_MINUTE * amount / limit if limit else 0.0 for amount, limit in limits),
    )


def _seen(plan: _Plan) -> Seen:
    """What texts took. Where only one API is asked, at the price it has now."""
    only = next(iter(plan.calls)) if len(plan.calls) == 1 else None

    def cost(paid: Paid) -> float:
        usage = only.usage(paid.response) if only else None
        return paid.cost_usd if only is None or usage is None else only.price.of(usage)

    return Seen(
        sizes=np.array([size for size, _ in plan.seen], dtype=np.float64),
        calls=np.array([len(paid) for _, paid in plan.seen], dtype=np.float64),
        usd=np.array([sum(map(cost, paid)) for _, paid in plan.seen], dtype=np.float64),
        seconds=np.array([sum(one.seconds for one in paid) for _, paid in plan.seen], dtype=np.float64),
    )


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
