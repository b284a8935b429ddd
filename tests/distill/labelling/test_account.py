"""What was spent and what calls in flight may cost never exceed the budget, on disk or in memory, whatever happens."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import DistillError
from distill.labelling.account import StoredAccount, dollars
from distill.labelling.answer_store import AnswerStore
from distill.teachers.account import BudgetError, PaidResponse
from tests.support.disk import nearly_full

REPLY = PaidResponse({"choices": [{"message": "ä\ud800"}], "usage": {"prompt_tokens": 3}}, 0.25, 0.5)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "run" / "answers.sqlite"


@contextmanager
def opened(path: Path, max_usd: float | None = None) -> Iterator[StoredAccount]:
    """The account in a store of its own, as a process that starts anew has it."""
    with AnswerStore(path) as store:
        yield StoredAccount(store, max_usd)


def owed(path: Path) -> float:
    """What was spent and what is open, as a reader beside the process sees it."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        ((usd,),) = reader.execute(
            "SELECT spent + (SELECT coalesce(sum(usd), 0.0) FROM reservations) FROM money"
        ).fetchall()
    return float(usd)


async def test_a_response_is_recalled_as_it_was_paid_for_also_by_the_next_process(path) -> None:
    with opened(path) as account:
        assert await account.recall("key") is None
        await account.settle(await account.reserve(1.0), REPLY.cost_usd, "key", REPLY)
        assert await account.recall("key") == REPLY
    with opened(path) as account:
        assert await account.recall("key") == REPLY
        assert (account.spent, account.reserved) == (0.25, 0.0)


async def test_a_call_is_reserved_on_disk_before_it_is_made_and_settled_when_it_is_over(path) -> None:
    with opened(path, 10.0) as account:
        first, second = await account.reserve(3.0), await account.reserve(4.0)
        assert (owed(path), account.reserved) == (7.0, 7.0)
        await account.settle(first, 1.0)
        assert (owed(path), account.spent, account.reserved) == (5.0, 1.0, 4.0)
        await account.settle(second, 0.0)
        assert (owed(path), account.spent, account.reserved) == (1.0, 1.0, 0.0)


async def test_what_was_in_flight_when_a_process_ended_counts_as_spent_once(path) -> None:
    with opened(path, 10.0) as account:
        await account.settle(await account.reserve(2.0), 0.5)
        await account.reserve(3.0)
    for _ in range(3):
        with opened(path) as account:
            assert account.spent == 3.5
    assert owed(path) == 3.5


async def test_a_call_that_the_budget_does_not_hold_is_refused_with_what_was_spent_and_what_to_do(path) -> None:
    with opened(path, 1.0) as account:
        await account.settle(await account.reserve(0.9), 0.9)
        with pytest.raises(BudgetError, match=r"\$0\.90 of \$1\.00 are spent, and the next .* \$0\.20\. .*raise"):
            await account.reserve(0.2)
        with pytest.raises(BudgetError, match=r"may cost \$0\.20"):
            await account.reserve(0.01)  # so that what the message says stays true
        assert owed(path) == 0.9


async def test_a_call_may_take_what_is_left_to_the_last_cent(path) -> None:
    with opened(path, 1.0) as account:
        await account.settle(await account.reserve(0.75), 0.75)
        await account.settle(await account.reserve(0.25), 0.25)
        assert await account.reserve(0.0)
        assert account.spent == 1.0


async def test_who_waits_for_money_gets_it_when_a_call_gives_it_back(path) -> None:
    with opened(path, 1.0) as account:
        first = await account.reserve(0.8)
        waiting = [asyncio.create_task(account.reserve(0.4)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(one.done() for one in waiting)
        await account.settle(first, 0.1)
        done, still = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 2:
            more, still = await asyncio.wait(still, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert account.spent + account.reserved == pytest.approx(0.9)
        for one in done:
            await account.settle(one.result(), 0.4)
        with pytest.raises(BudgetError):
            await next(iter(still))


async def test_a_call_that_is_given_up_while_it_is_reserved_takes_no_money(path) -> None:
    with opened(path, 1.0) as account:
        giving_up = asyncio.create_task(account.reserve(0.8))
        waiting = asyncio.create_task(account.reserve(0.9))
        await asyncio.sleep(0)
        giving_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await giving_up
        await account.settle(await waiting, 0.9)
        assert owed(path) == pytest.approx(0.9)


async def test_what_is_settled_counts_though_who_waits_for_it_is_cancelled(path) -> None:
    with opened(path, 1.0) as account:
        settling = asyncio.create_task(account.settle(await account.reserve(0.8), 0.25, "key", REPLY))
        await asyncio.sleep(0)
        settling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await settling
        assert (account.spent, account.reserved) == (0.25, 0.0)
    with opened(path) as account:
        assert account.spent == 0.25
        assert await account.recall("key") == REPLY


async def test_a_closed_account_waits_for_what_is_in_flight_and_takes_nothing_more(path) -> None:
    with opened(path) as account:
        reservation = await account.reserve(1.0)
        closing_ = asyncio.create_task(account.close())
        await asyncio.sleep(0)
        assert not closing_.done()
        with pytest.raises(BudgetError, match="closed"):
            await account.reserve(1.0)
        await account.settle(reservation, 0.5, "key", REPLY)
        await closing_
        assert await account.recall("key") == REPLY


async def test_on_a_full_disk_what_was_paid_is_told_not_used_counts_in_full_and_ends_every_call(path) -> None:
    large = PaidResponse({"noise": random.Random(0).randbytes(200_000).hex()}, 0.25, 0.5)
    with opened(path, 2.0) as account:
        first, second = await account.reserve(1.0), await account.reserve(1.0)
        waiting = asyncio.create_task(account.reserve(1.0))
        await asyncio.sleep(0)
        with nearly_full(path):
            with pytest.raises(DistillError, match=r"could not be stored .*make room"):
                await account.settle(first, 0.25, "key", large)
        with pytest.raises(DistillError, match=r"could not be stored .*make room"):
            await waiting
        with pytest.raises(DistillError, match="could not be stored"):
            await account.reserve(0.0)
        assert await account.recall("key") is None
        await account.settle(second, 0.5)
        assert (account.spent, account.reserved) == (1.5, 0.0)
    with opened(path) as account:
        assert account.spent == 1.5


class Watched(StoredAccount):
    """An account that looks at itself whenever anything changes."""

    most = 0.0

    def _notify(self) -> None:
        self.look()
        super()._notify()

    def look(self) -> None:
        self.most = max(self.most, self.spent + self.reserved)


@settings(max_examples=25, deadline=None)
@given(
    calls=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 100), st.integers(0, 3)), min_size=1, max_size=60),
    budget=st.integers(0, 400),
)
def test_spent_and_reserved_never_exceed_the_budget_and_nobody_waits_for_ever(tmp_path_factory, calls, budget) -> None:
    path = tmp_path_factory.mktemp("accounts") / "answers.sqlite"

    async def call(account: Watched, worst: int, share: int, yields: int) -> float:
        reservation = await account.reserve(worst)
        account.look()
        for _ in range(yields):
            await asyncio.sleep(0)
        cost = worst * share // 100
        await account.settle(reservation, cost)
        return cost

    async def run() -> None:
        with AnswerStore(path) as store:
            account = Watched(store, budget)
            made = asyncio.gather(*(call(account, *one) for one in calls), return_exceptions=True)
            outcomes = await asyncio.wait_for(made, 60)
            paid = sum(one for one in outcomes if not isinstance(one, BaseException))
            refused = [one for one in outcomes if isinstance(one, BaseException)]
            assert {type(one) for one in refused} <= {BudgetError}
            assert account.most <= budget
            assert (account.spent, account.reserved) == (paid, 0)
            assert owed(path) == paid
            if refused:
                assert account.spent + max(worst for worst, _, _ in calls) > budget

    asyncio.run(run())


@pytest.mark.parametrize(
    ("usd", "said"),
    [(0.0, "$0.00"), (0.000031, "$0.000031"), (0.05, "$0.050"), (0.42, "$0.42"), (1.0, "$1.00"), (1234.5, "$1,234.50")],
)
def test_an_amount_is_said_in_cents_or_with_two_digits_that_count(usd, said) -> None:
    assert dollars(usd) == said
