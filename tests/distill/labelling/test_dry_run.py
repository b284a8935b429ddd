"""A dry run finds the calls that are still to make and what others took, and makes none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import numpy as np
import pytest

from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.labelling.dry_run import DryRunAccount, dry_run, priced
from distill.labelling.forecast import Forecast
from distill.labelling.label import ask_missing
from distill.teachers import Answer, teacher_class
from distill.teachers.account import Account, BudgetError, PaidResponse
from distill.teachers.api.client import Api, ApiRequest
from distill.teachers.api.config import ApiConfig
from distill.teachers.api.pricing import Usage
from tests.support.stub_teacher import StubTeacher

PRICE = {"input": 1000.0, "output": 2000.0}


def usage(response: Mapping[str, Any]) -> Usage:
    return Usage(input=response["tokens"], output=1)


def served(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"tokens": len(request.content) // 2})


class TwoSteps(StubTeacher):
    """A teacher that asks a question, and another one where the text is long."""

    name, concurrency = "two", 4

    def __init__(self, account: Account, **config: Any) -> None:
        given = {"base_url": "http://localhost/v1", "model": "m", "key_env": "NONE", "usd_per_million": PRICE}
        transport = httpx.MockTransport(served)
        self.api = Api(
            ApiConfig(**{**given, **config}), account, name="two", headers={}, usage=usage, transport=transport
        )

    def requests(self, text: str) -> list[ApiRequest]:
        return [ApiRequest("/ask", {"text": text, "step": step}, 1) for step in range(2 if len(text) > 50 else 1)]

    async def ask(self, texts, repeat=0):
        paid = [await self.api.call(one, lambda response: None) for text in texts for one in self.requests(text)]
        cost = sum(call.cost_usd for _, call in paid)
        return [Answer(np.array([1.0, 0.0], np.float32), "votes", cost_usd=cost) for _ in texts]

    async def plan(self, text, repeat=0):
        for request in self.requests(text):
            if await self.api.account.recall(self.api.key(request)) is None:
                return [(self.api, request)]
        return []

    async def aclose(self) -> None:
        await self.api.aclose()


@pytest.fixture
async def store(tmp_path) -> AsyncIterator[AnswerStore]:
    with AnswerStore(tmp_path / "answers.sqlite") as opened:
        yield opened


def texts(start: int, end: int, length: int = 20) -> list[str]:
    return [f"text {number}".ljust(length + number % 7, "x") for number in range(start, end)]


async def planned(store: AnswerStore, pool: list[str], repeats: int = 1, **config: Any) -> Forecast:
    account = DryRunAccount(StoredAccount(store))
    questions = [(text, repeat) for text in pool for repeat in range(repeats)]
    return await dry_run(TwoSteps(account, **config), questions, store, account)


async def labelled(store: AnswerStore, pool: list[str], **config: Any) -> float:
    account = StoredAccount(store)
    before = account.spent
    await ask_missing(TwoSteps(account, **config), pool, store)
    return account.spent - before


async def test_calls_that_are_still_to_make_are_counted_and_none_is_made(store) -> None:
    pool = texts(0, 60)
    made = await planned(store, [*pool, pool[0]])
    assert (made.texts, made.to_ask, made.calls.value, made.learnt_from, made.spent_usd) == (60, 60, 60, 0, 0.0)
    assert store.read("SELECT * FROM calls") == []
    assert store.read("SELECT * FROM reservations") == []


async def test_a_forecast_from_answered_texts_has_what_the_others_then_cost(store) -> None:
    await labelled(store, texts(0, 40))
    made = await planned(store, texts(0, 100))
    assert (made.to_ask, round(made.calls.value, 6), made.learnt_from) == (60, 60, 40)
    assert made.spent_usd == pytest.approx(StoredAccount(store).spent)
    paid = await labelled(store, texts(0, 100))
    assert made.usd.lower <= paid <= made.usd.upper
    assert made.usd.upper < 1.05 * made.usd.lower


async def test_calls_that_follow_from_others_are_forecast_from_texts_that_took_them(store) -> None:
    await labelled(store, texts(0, 30, 80))
    made = await planned(store, texts(0, 50, 80))
    assert made.calls.value == pytest.approx(40)
    assert made.usd.lower <= await labelled(store, texts(0, 50, 80)) <= made.usd.upper


async def test_a_price_that_has_changed_since_is_the_one_that_counts(store) -> None:
    await labelled(store, texts(0, 40), usd_per_million={"input": 0, "output": 0})
    made = await planned(store, texts(0, 80))
    assert made.usd.value == pytest.approx(await labelled(store, texts(40, 80)), rel=0.02)


async def test_responses_that_are_kept_and_not_answers_yet_need_no_call(store) -> None:
    account = StoredAccount(store)
    teacher = TwoSteps(account)
    await teacher.ask(texts(0, 40))
    made = await planned(store, texts(0, 50))
    assert (made.to_ask, round(made.calls.value, 6), made.learnt_from) == (50, 10, 40)


async def test_limits_of_the_api_bound_the_time(store) -> None:
    await labelled(store, texts(0, 40))
    made = await planned(store, texts(0, 100), requests_per_minute=30)
    assert made.seconds is not None
    assert (made.seconds.lower, made.seconds.upper) == (120.0, 120.0)
    tokens = sum(
        request.max_tokens
        for text in texts(40, 100)
        for request in TwoSteps(DryRunAccount(StoredAccount(store))).requests(text)
    )
    made = await planned(store, texts(0, 100), tokens_per_minute=10)
    assert made.seconds is not None
    assert made.seconds.value == pytest.approx(6 * (tokens / 4 + 60))


async def test_what_is_kept_beside_calls_is_none_of_them(store) -> None:
    account = StoredAccount(store)
    await account.settle(await account.reserve(0.0), 0.0, "agreed", PaidResponse({"dialect": 1}, 0.0, 0.0))
    dry = DryRunAccount(account)
    assert await dry.recall("agreed") is not None
    assert dry.recalled == []


async def test_the_account_of_a_dry_run_never_pays(store) -> None:
    with pytest.raises(BudgetError, match="makes no calls"):
        await TwoSteps(DryRunAccount(StoredAccount(store))).ask(["text"])


@pytest.mark.parametrize(
    ("kind", "paid"),
    [("openai", True), ("decisions", True), ("local", False), ("recorded", False), ("bundle", False)],
)
def test_kinds_that_make_calls_are_told_from_those_that_make_none(kind, paid) -> None:
    assert priced(teacher_class(kind)) is paid


async def test_what_is_asked_twice_is_planned_twice(store) -> None:
    pool = texts(0, 10)
    once, twice = await planned(store, pool), await planned(store, pool, repeats=2)
    assert twice.to_ask == 2 * once.to_ask
