"""One account and one store for every worker: nothing that a worker does, or that becomes of it, exceeds the budget."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from distill.errors import DistillError
from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.labelling.label import MOST_ALIKE
from distill.labelling.ray.server import MOST_DEATHS, Query, Reply, Server
from distill.teachers import Answer, TeacherError
from distill.teachers.account import BudgetError, PaidResponse

ANSWER = Answer(np.array([0.25, 0.75], np.float32), "logprobs")
REPLY = PaidResponse({"choices": []}, 0.25, 0.5)


class Teacher:
    config_type = BaseModel
    name, version, labels, batch_size, concurrency = "played", "1", ("a", "b"), 1, 1


class Served:
    """A server with its store and account, and its replies by worker."""

    def __init__(self, path: Path, max_usd: float | None = None) -> None:
        self.store = AnswerStore(path)
        self.account = StoredAccount(self.store, max_usd)
        self.replies: dict[str, list[Reply]] = defaultdict(list)
        self.steps: list[int] = []
        self.server = Server(Teacher(), self.store, self.account, self.reply, advance=self.steps.append)  # type: ignore[arg-type]
        self._waiting: dict[tuple[str, int], asyncio.Future[Any]] = {}
        self._numbers = count(1)

    def reply(self, worker: str, reply: Reply) -> None:
        self.replies[worker].append(reply)
        if reply.number is not None:
            waiting = self._waiting[worker, reply.number]
            waiting.set_result(reply.result) if reply.error is None else waiting.set_exception(reply.error)

    def ask(self, worker: str, what: str, *arguments: Any, place: str = "") -> asyncio.Future[Any]:
        """Send a query as a worker, and return its reply; `first.2` takes the place of `first.1`."""
        number = next(self._numbers)
        waiting = self._waiting[worker, number] = asyncio.get_running_loop().create_future()
        self.server.handle(Query(worker.split(".")[0], worker, number, what, arguments))
        return waiting


@pytest.fixture
async def served(tmp_path) -> AsyncIterator[Served]:
    made = Served(tmp_path / "answers.sqlite", 1.0)
    yield made
    await made.server.close()
    made.store.close()


async def test_workers_share_one_budget(served) -> None:
    first = await served.ask("first", "reserve", 0.7)
    second = served.ask("second", "reserve", 0.7)
    await served.ask("first", "recall", "key")
    assert not second.done()
    await served.ask("first", "settle", first, 0.25, "key", REPLY)
    await served.ask("second", "settle", await second, 0.75)
    with pytest.raises(BudgetError, match=r"\$1\.00 of \$1\.00 are spent"):
        await served.ask("first", "reserve", 0.1)
    assert await served.ask("second", "recall", "key") == REPLY


async def test_only_texts_without_an_answer_are_given_out_again(served) -> None:
    assert await served.ask("first.1", "lacking", ["x", "y", "z"]) == ["x", "y", "z"]
    await served.ask("first.1", "add", ["y"], [ANSWER])
    assert await served.ask("first.2", "lacking", ["x", "y", "z"]) == ["x", "z"]
    await served.ask("first.2", "add", ["x", "z"], [ANSWER, ANSWER])
    assert (served.steps, served.server.asked) == ([1, 2], 3)
    assert await served.ask("second", "lacking", ["x", "y", "z"]) == []


async def test_answers_are_as_many_as_texts_and_distributions(served) -> None:
    with pytest.raises(DistillError, match="played gave 1 answers for 2 texts"):
        await served.ask("first", "add", ["x", "y"], [ANSWER])
    await served.ask("first", "add", ["x"], [Answer(np.array([0.5, 0.9], np.float32), "logprobs")])
    assert [one.outcome for one in served.store.get(Teacher(), ["x"])] == ["invalid"]


async def test_rejections_that_may_not_be_for_the_text_wait_for_an_answer_and_too_many_end_the_run(served) -> None:
    rejected = Answer(None, "logprobs", 0.0, outcome="invalid", reason="no", doubtful=True)
    await served.ask("first", "add", ["x"], [rejected])
    assert list(served.store.get(Teacher(), ["x"])) == [None]
    await served.ask("second", "add", ["y"], [ANSWER])
    assert [one.outcome for one in served.store.get(Teacher(), ["x", "y"])] == ["invalid", "ok"]
    texts = [str(number) for number in range(MOST_ALIKE)]
    for text in texts[:-1]:
        await served.ask("first", "add", [text], [rejected])
    with pytest.raises(TeacherError, match="rejected 20 texts one after the other, and said: no") as failure:
        await served.ask("first", "add", texts[-1:], [rejected])
    assert failure.value.text in texts
    await served.ask("first", "failed", failure.value)
    await served.server.close()
    assert set(served.store.get(Teacher(), texts)) == {None}


async def test_rejections_at_the_end_are_stored_when_the_run_is_over(served) -> None:
    await served.ask("first", "add", ["x"], [Answer(None, "logprobs", outcome="invalid", reason="no", doubtful=True)])
    await served.server.close()
    assert [one.outcome for one in served.store.get(Teacher(), ["x"])] == ["invalid"]


async def test_what_a_dead_worker_had_set_apart_is_spent_and_others_get_what_is_left(served) -> None:
    await served.ask("first.1", "reserve", 0.6)
    waiting = served.ask("second", "reserve", 0.5)
    of_the_dead = served.ask("first.1", "reserve", 0.5)
    await served.ask("first.2", "recall", "key")
    with pytest.raises(BudgetError, match=r"\$0\.60 of \$1\.00 are spent"):
        await waiting
    assert (served.account.spent, served.account.reserved) == (0.6, 0.0)
    assert not of_the_dead.done()


async def test_a_worker_that_dies_while_its_money_is_reserved_takes_none(served) -> None:
    reserving = served.ask("first.1", "reserve", 0.6)
    await asyncio.sleep(0)
    await served.ask("first.2", "recall", "key")
    await served.server.close()
    assert not reserving.done()
    assert (served.account.spent, served.account.reserved) == (0.0, 0.0)


async def test_what_a_worker_brings_that_was_taken_for_dead_is_kept_and_costs_no_more(served) -> None:
    reservation = await served.ask("first.1", "reserve", 0.6)
    await served.ask("first.2", "recall", "key")
    await served.ask("first.1", "settle", reservation, 0.25, "key", REPLY)
    assert await served.ask("first.2", "recall", "key") == REPLY
    assert served.account.spent == 0.6


async def test_workers_that_are_not_heard_of_at_the_end_have_spent_what_they_set_apart(served) -> None:
    kept = await served.ask("first", "reserve", 0.2)
    await served.ask("second", "reserve", 0.3)
    await served.ask("first", "settle", kept, 0.1)
    await served.server.close()
    assert (served.account.spent, served.account.reserved) == (pytest.approx(0.4), 0.0)


async def test_the_first_failure_is_told_and_ends_every_worker_after_what_is_in_flight(served) -> None:
    await served.ask("first", "lacking", ["x"])
    await served.ask("second", "lacking", ["y"])
    await served.ask("first", "failed", TeacherError("quota used up"))
    await served.ask("second", "failed", TeacherError("cut off"))
    assert str(served.server.failure) == "quota used up"
    assert [Reply() in served.replies[worker] for worker in ("first", "second")] == [True, True]
    assert await served.ask("third", "lacking", ["z"]) == []
    await served.ask("third", "done", 0)
    await served.ask("first", "done", 2)
    assert not served.server.idle
    await served.ask("second", "add", ["y"], [ANSWER])
    await served.ask("second", "done", 3)
    assert served.server.idle
    assert served.server.truncated == 5


async def test_a_dead_worker_is_not_waited_for(served) -> None:
    await served.ask("first.1", "lacking", ["x"])
    served.server.stop()
    await served.ask("first.2", "recall", "key")
    assert served.server.idle


async def test_workers_that_only_die_end_the_run(served) -> None:
    for life in range(MOST_DEATHS + 2):
        await served.ask(f"first.{life}", "lacking", ["x"])
        await served.ask(f"first.{life}", "add", [f"text {life}"], [ANSWER])
    assert served.server.failure is None
    for life in range(MOST_DEATHS + 1):
        await served.ask(f"second.{life}", "lacking", ["x"])
    assert f"{MOST_DEATHS} workers died" in str(served.server.failure)
