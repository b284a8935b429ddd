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
from distill.labelling.account import Cashbook
from distill.labelling.label import MOST_ALIKE, AnswerStore
from distill.labelling.ray.server import MOST_DEATHS, Desk, Question, Reply
from distill.teachers import Answer, TeacherError
from distill.teachers.account import BudgetError, Paid

ANSWER = Answer(np.array([0.25, 0.75], np.float32), "logprobs")
REPLY = Paid({"choices": []}, 0.25, 0.5)


class Teacher:
    config_type = BaseModel
    name, version, labels, batch_size, concurrency = "played", "1", ("a", "b"), 1, 1


class Office:
    """A desk with its store and account, and what it replied to whom."""

    def __init__(self, path: Path, max_usd: float | None = None) -> None:
        self.store = AnswerStore(path)
        self.book = Cashbook(self.store, max_usd)
        self.told: dict[str, list[Reply]] = defaultdict(list)
        self.steps: list[int] = []
        self.desk = Desk(Teacher(), self.store, self.book, self.reply, advance=self.steps.append)  # type: ignore[arg-type]
        self._waiting: dict[tuple[str, int], asyncio.Future[Any]] = {}
        self._numbers = count(1)

    def reply(self, worker: str, reply: Reply) -> None:
        self.told[worker].append(reply)
        if reply.number is not None:
            waiting = self._waiting[worker, reply.number]
            waiting.set_result(reply.result) if reply.error is None else waiting.set_exception(reply.error)

    def ask(self, worker: str, what: str, *arguments: Any, place: str = "") -> asyncio.Future[Any]:
        """The desk's reply to a worker; `first.2` comes in place of `first.1`."""
        number = next(self._numbers)
        waiting = self._waiting[worker, number] = asyncio.get_running_loop().create_future()
        self.desk.hear(Question(worker.split(".")[0], worker, number, what, arguments))
        return waiting


@pytest.fixture
async def office(tmp_path) -> AsyncIterator[Office]:
    made = Office(tmp_path / "answers.sqlite", 1.0)
    yield made
    await made.desk.close()
    made.store.close()


async def test_workers_share_one_budget(office) -> None:
    first = await office.ask("first", "reserve", 0.7)
    second = office.ask("second", "reserve", 0.7)
    await office.ask("first", "recall", "key")
    assert not second.done()
    await office.ask("first", "settle", first, 0.25, "key", REPLY)
    await office.ask("second", "settle", await second, 0.75)
    with pytest.raises(BudgetError, match=r"\$1\.00 of \$1\.00 are spent"):
        await office.ask("first", "reserve", 0.1)
    assert await office.ask("second", "recall", "key") == REPLY


async def test_only_texts_without_an_answer_are_given_out_again(office) -> None:
    assert await office.ask("first.1", "lacking", ["x", "y", "z"]) == ["x", "y", "z"]
    await office.ask("first.1", "keep", ["y"], [ANSWER])
    assert await office.ask("first.2", "lacking", ["x", "y", "z"]) == ["x", "z"]
    await office.ask("first.2", "keep", ["x", "z"], [ANSWER, ANSWER])
    assert (office.steps, office.desk.asked) == ([1, 2], 3)
    assert await office.ask("second", "lacking", ["x", "y", "z"]) == []


async def test_answers_are_as_many_as_texts_and_distributions(office) -> None:
    with pytest.raises(DistillError, match="played gave 1 answers for 2 texts"):
        await office.ask("first", "keep", ["x", "y"], [ANSWER])
    await office.ask("first", "keep", ["x"], [Answer(np.array([0.5, 0.9], np.float32), "logprobs")])
    assert [one.outcome for one in office.store.get(Teacher(), ["x"])] == ["invalid"]


async def test_rejections_that_may_not_be_for_the_text_wait_for_an_answer_and_too_many_end_the_run(office) -> None:
    rejected = Answer(None, "logprobs", 0.0, outcome="invalid", said="no", doubtful=True)
    await office.ask("first", "keep", ["x"], [rejected])
    assert list(office.store.get(Teacher(), ["x"])) == [None]
    await office.ask("second", "keep", ["y"], [ANSWER])
    assert [one.outcome for one in office.store.get(Teacher(), ["x", "y"])] == ["invalid", "ok"]
    texts = [str(number) for number in range(MOST_ALIKE)]
    for text in texts[:-1]:
        await office.ask("first", "keep", [text], [rejected])
    with pytest.raises(TeacherError, match="rejected 20 texts one after the other, and said: no") as failure:
        await office.ask("first", "keep", texts[-1:], [rejected])
    assert failure.value.text in texts
    await office.ask("first", "failed", failure.value)
    await office.desk.close()
    assert set(office.store.get(Teacher(), texts)) == {None}


async def test_rejections_at_the_end_are_stored_when_the_run_is_over(office) -> None:
    await office.ask("first", "keep", ["x"], [Answer(None, "logprobs", outcome="invalid", said="no", doubtful=True)])
    await office.desk.close()
    assert [one.outcome for one in office.store.get(Teacher(), ["x"])] == ["invalid"]


async def test_what_a_dead_worker_had_set_apart_is_spent_and_others_get_what_is_left(office) -> None:
    await office.ask("first.1", "reserve", 0.6)
    waiting = office.ask("second", "reserve", 0.5)
    of_the_dead = office.ask("first.1", "reserve", 0.5)
    await office.ask("first.2", "recall", "key")
    with pytest.raises(BudgetError, match=r"\$0\.60 of \$1\.00 are spent"):
        await waiting
    assert (office.book.spent, office.book.reserved) == (0.6, 0.0)
    assert not of_the_dead.done()


async def test_a_worker_that_dies_while_its_money_is_reserved_takes_none(office) -> None:
    reserving = office.ask("first.1", "reserve", 0.6)
    await asyncio.sleep(0)
    await office.ask("first.2", "recall", "key")
    await office.desk.close()
    assert not reserving.done()
    assert (office.book.spent, office.book.reserved) == (0.0, 0.0)


async def test_what_a_worker_brings_that_was_taken_for_dead_is_kept_and_costs_no_more(office) -> None:
    reservation = await office.ask("first.1", "reserve", 0.6)
    await office.ask("first.2", "recall", "key")
    await office.ask("first.1", "settle", reservation, 0.25, "key", REPLY)
    assert await office.ask("first.2", "recall", "key") == REPLY
    assert office.book.spent == 0.6


async def test_workers_that_are_not_heard_of_at_the_end_have_spent_what_they_set_apart(office) -> None:
    kept = await office.ask("first", "reserve", 0.2)
    await office.ask("second", "reserve", 0.3)
    await office.ask("first", "settle", kept, 0.1)
    await office.desk.close()
    assert (office.book.spent, office.book.reserved) == (pytest.approx(0.4), 0.0)


async def test_the_first_failure_is_told_and_ends_every_worker_after_what_is_in_flight(office) -> None:
    await office.ask("first", "lacking", ["x"])
    await office.ask("second", "lacking", ["y"])
    await office.ask("first", "failed", TeacherError("quota used up"))
    await office.ask("second", "failed", TeacherError("cut off"))
    assert str(office.desk.failure) == "quota used up"
    assert [Reply() in office.told[worker] for worker in ("first", "second")] == [True, True]
    assert await office.ask("third", "lacking", ["z"]) == []
    await office.ask("third", "done", 0)
    await office.ask("first", "done", 2)
    assert not office.desk.quiet
    await office.ask("second", "keep", ["y"], [ANSWER])
    await office.ask("second", "done", 3)
    assert office.desk.quiet
    assert office.desk.truncated == 5


async def test_a_dead_worker_is_not_waited_for(office) -> None:
    await office.ask("first.1", "lacking", ["x"])
    office.desk.stop()
    await office.ask("first.2", "recall", "key")
    assert office.desk.quiet


async def test_workers_that_only_die_end_the_run(office) -> None:
    for life in range(MOST_DEATHS + 2):
        await office.ask(f"first.{life}", "lacking", ["x"])
        await office.ask(f"first.{life}", "keep", [f"text {life}"], [ANSWER])
    assert office.desk.failure is None
    for life in range(MOST_DEATHS + 1):
        await office.ask(f"second.{life}", "lacking", ["x"])
    assert f"{MOST_DEATHS} workers died" in str(office.desk.failure)
