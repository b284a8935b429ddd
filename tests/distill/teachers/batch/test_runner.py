"""Batches against servers that speak the vendors' protocols over real sockets, expire, hang and kill.

Whatever happens, a server sees each batch once, and each call is charged once.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.labelling.batch_account import StoredBatchAccount
from distill.labelling.session import LabellingOptions
from distill.run import Run
from distill.task import Task
from distill.teachers import TeacherError, create
from distill.teachers.api.errors import ApiError
from distill.teachers.base import Answer
from distill.teachers.batch import collect, runner, submit
from tests.support.batch_vendors import LABELS, Life, account, assert_once, assert_right, config, leave_open, live, pool

ROOT = Path(__file__).parents[4]


async def test_a_batch_fills_the_account_and_every_text_finds_its_calls_paid(vendor, path) -> None:
    texts = pool(25)
    life = await live(vendor, path, texts)
    assert_right(life, texts)
    assert_once(vendor, 25)
    assert len(vendor.made) == 1
    probes = sum(1 for body in vendor.ordinary)
    assert life.spent == pytest.approx(25 * vendor.cost + probes * 2 * vendor.cost)
    assert life.reserved == pytest.approx(0, abs=1e-12)
    assert all(answer.cost_usd == pytest.approx(vendor.cost) for answer in life.answers)
    assert {answer.model for answer in life.answers} == {"m-2026-01"}  # as the rows of the batch state it
    assert any("open batches: 1; " in said for said in life.told)
    again = await live(vendor, path, texts)
    assert_right(again, texts)
    assert_once(vendor, 25)


async def test_votes_are_all_in_the_batch_each_draw_a_call(anthropic, path) -> None:
    life = await live(anthropic, path, pool(4), method="votes", samples=5, permutations=1)
    assert_right(life, pool(4))
    assert anthropic.charges == 20
    assert len(anthropic.made[0].requests) == 20
    assert life.answers[0].cost_usd == pytest.approx(5 * anthropic.cost)


async def test_votes_of_a_chat_api_are_too(openai, path) -> None:
    life = await live(openai, path, pool(4), method="votes", samples=3)
    assert_right(life, pool(4))
    assert {answer.method for answer in life.answers} == {"votes"}
    assert openai.charges == 12
    body = openai.made[0].requests[0][1]
    assert body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == list(LABELS)


async def test_a_teacher_with_two_steps_takes_two_rounds(openai, path) -> None:
    groups = {"money": ["billing", "refund"], "goods": ["shipping"]}
    life = await live(openai, path, pool(9), groups=groups)
    assert_right(life, pool(9))
    assert [len(made.requests) for made in openai.made] == [9, 6]
    assert openai.asked_alone == set()


@pytest.mark.parametrize(
    ("stage", "mishap"),
    [
        *(("create", mishap) for mishap in ("refuse 500", "500 after", "html", "truncate", "hang")),
        *(("look", mishap) for mishap in ("refuse 429", "html", "hang")),
        *(("results", mishap) for mishap in ("refuse 500", "html", "truncate", "hang")),
    ],
)
async def test_what_passes_is_waited_for_and_a_batch_is_submitted_once(
    vendor, path, monkeypatch, stage, mishap
) -> None:
    monkeypatch.setattr("distill.teachers.batch.base._SLOW_TIMEOUT", 0.3)
    vendor.mishaps = [(stage, mishap)]
    life = await live(vendor, path, pool(8), timeout_seconds=0.3)
    assert_right(life, pool(8))
    assert vendor.mishaps == []
    assert len(vendor.made) == 1
    assert_once(vendor, 8)
    assert account(path)[1] == 0


@pytest.mark.parametrize("stage", ["create", "look", "results"])
async def test_a_vendor_that_asks_to_be_left_alone_is_asked_again_after_a_minute_at_most(
    vendor, path, monkeypatch, stage
) -> None:
    monkeypatch.setattr(submit, "MINUTE", 0.01)
    monkeypatch.setattr(collect, "MINUTE", 0.01)
    vendor.mishaps = [(stage, "refuse 429 90")] * 6  # more than there are attempts
    life = await live(vendor, path, pool(8))
    assert_right(life, pool(8))
    assert len(vendor.made) == 1
    assert_once(vendor, 8)
    assert any("answered 429: refused, as told; it asks to be left alone for 90 s" in said for said in life.told)


async def test_a_teacher_without_a_batch_api_is_refused(path) -> None:
    class Plain:
        name = "local:x"

    with AnswerStore(path) as store, pytest.raises(TeacherError, match="local:x has no batch API: leave --batch out"):
        await runner.make_calls(Plain(), [("a", 0)], StoredBatchAccount(store, StoredAccount(store)))  # type: ignore[arg-type]


# Money


async def test_ordinary_labelling_is_refused_while_batches_are_open(vendor, path) -> None:
    await leave_open(vendor, path)
    with AnswerStore(path) as store:
        book = StoredAccount(store)
        teacher: Any = create(config(vendor), LABELS, book)
        with pytest.raises(TeacherError, match=r"6 calls to .* are in open batches.*label --batch"):
            runner.refuse_open(teacher, StoredBatchAccount(store, book))
        await teacher.aclose()
    await live(vendor, path, pool(6))
    with AnswerStore(path) as store:
        book = StoredAccount(store)
        teacher = create(config(vendor), LABELS, book)
        runner.refuse_open(teacher, StoredBatchAccount(store, book))
        await teacher.aclose()


# A process that ends


STEPS = ("record", "submit before", "submit after", "submitted", "look", "settle before", "settle after", "close")


@pytest.mark.parametrize("step", STEPS)
async def test_an_exception_at_any_step_costs_nothing_twice(vendor, path, monkeypatch, step) -> None:
    """As if the process ended there: what follows the exception is not executed."""

    class EndError(Exception):
        pass

    teacher: Any = create(config(vendor), LABELS)
    (batch_api,) = teacher.batch_apis()
    await teacher.aclose()
    name, _, when = step.partition(" ")
    owner = type(batch_api) if name in ("submit", "look") else StoredBatchAccount
    with monkeypatch.context() as patched:
        original = getattr(owner, name)

        async def wrapped(self: Any, *given: Any, **named: Any) -> Any:
            if when == "before":
                raise EndError
            await original(self, *given, **named)
            raise EndError

        patched.setattr(owner, name, wrapped)
        with pytest.raises(EndError):
            await live(vendor, path, pool(6), calls=4)
    life = await live(vendor, path, pool(6), calls=4)
    assert_right(life, pool(6))
    assert_once(vendor, 6)
    spent, reserved = account(path)
    assert (spent, reserved) == (pytest.approx((6 + 2 * len(vendor.ordinary)) * vendor.cost), 0)
    assert sorted(len(made.requests) for made in vendor.made) in ([2, 4], [2, 2, 2])


HARNESS = """
import asyncio, json, os, sys
from pathlib import Path

from distill.labelling.batch_account import StoredBatchAccount
from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.teachers import create
from distill.teachers.batch import runner

path, config, labels, texts = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])


async def life():
    with AnswerStore(path) as store:
        book = StoredAccount(store)
        teacher: Any = create({**config, "headers": {"x-pid": str(os.getpid())}}, labels, book)
        await runner.make_calls(teacher, [(text, 0) for text in texts], StoredBatchAccount(store, book))
        answers = await teacher.ask(texts)
        print(json.dumps([labels[int(answer.probabilities.argmax())] for answer in answers]), book.spent, book.reserved)
        await teacher.aclose()


while True:
    child = os.fork()
    if child == 0:
        asyncio.run(life())
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != -9:
        sys.exit(os.waitstatus_to_exitcode(status))
"""


async def test_a_process_killed_at_any_request_submits_and_pays_once(vendor, path) -> None:
    stages = (
        ["upload", "create", "look", "list", "results"] if vendor.kind == "openai" else ["create", "look", "results"]
    )
    vendor.mishaps = [(stage, when) for stage in stages for when in ("kill before", "kill after")]
    if vendor.kind == "openai":  # a list is asked for only where a submission was cut off
        vendor.mishaps = [mishap for mishap in vendor.mishaps if mishap[0] != "list"]
    expected = [stage for stage, _ in vendor.mishaps]
    texts = pool(7)
    given = [str(path), json.dumps(config(vendor)), json.dumps(LABELS), json.dumps(texts)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HARNESS, *given, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert vendor.killed == expected
    labels, spent, reserved = out.decode().strip().rsplit(" ", 2)
    assert json.loads(labels) == [text.split(" ")[0] for text in texts]
    assert_once(vendor, 7)
    assert len(vendor.made) == 1
    assert float(reserved) == pytest.approx(0, abs=1e-12)
    assert float(spent) == pytest.approx((7 + 2 * len(vendor.ordinary)) * vendor.cost)


async def test_another_draw_is_a_question_of_its_own(anthropic, path) -> None:
    questions = [("refund 1", 0), ("billing 2", 0), ("refund 1", 1)]
    with AnswerStore(path) as store:
        book = StoredAccount(store)
        teacher: Any = create(config(anthropic, method="votes", samples=2), LABELS, book)
        await runner.make_calls(teacher, questions, StoredBatchAccount(store, book))
        assert [await teacher.plan(*question) for question in questions] == [[], [], []]
        await teacher.aclose()
    assert [len(made.requests) for made in anthropic.made] == [6]


async def test_a_run_labels_its_pool_through_batches_and_forgets_none_of_it(anthropic, tmp_path, write_csv) -> None:
    for name, start in (("train", 0), ("test", 300)):
        write_csv(
            tmp_path / f"{name}.csv",
            [(f"{LABELS[n % 3]} {n} {hash_of(n)}", LABELS[n % 3]) for n in range(start, start + 60)],
        )
    task = {
        "name": "batched",
        "data": {
            "train": {"path": str(tmp_path / "train.csv"), "label": "label"},
            "test": {"path": str(tmp_path / "test.csv"), "label": "label"},
        },
        "teacher": config(anthropic),
        "labelling": {"self_agreement": 5},
        "students": {"words": {"family": "static", "model": "package:none"}},
    }
    run = Run(Task.model_validate(task), tmp_path / "run")
    run.make_data()
    anthropic.mishaps = [("look", "refuse 401")]
    with pytest.raises(ApiError, match="401"):
        await asyncio.to_thread(run.make_labels, LabellingOptions(batch=True))
    with pytest.raises(TeacherError, match="label --batch"):
        await asyncio.to_thread(run.make_labels)
    soft = await asyncio.to_thread(run.make_labels, LabellingOptions(batch=True))
    assert len(soft) == 120
    assert [soft.labels[choice] for choice in soft.hard] == [text.split(" ")[0] for text in soft.texts]
    assert_once(anthropic, 125)
    assert [len(made.requests) for made in anthropic.made] == [125]


def hash_of(number: int) -> str:
    """Words that no other number has, so that no two texts are near."""
    generator = random.Random(number)
    return " ".join("".join(generator.choices("abcdefghijklmnop", k=7)) for _ in range(6))


async def test_members_of_an_ensemble_have_their_own_batches_prices_and_readers(openai, path) -> None:
    """Two models, and one of them with two methods, whose answers the other method's reader does not take."""
    plain = config(openai)
    dear = {**plain, "model": "dear", "usd_per_million": {"input": 10.0, "output": 40.0}}
    voting = {**plain, "method": "votes", "samples": 1, "permutations": 1}
    members = [{"teacher": plain}, {"teacher": dear}, {"teacher": voting}]
    questions = [(text, 0) for text in pool(5)]
    answers: Sequence[Answer] = ()
    for mishaps in ([("look", "refuse 401")], []):
        openai.mishaps = list(mishaps)
        with AnswerStore(path) as store:
            book = StoredAccount(store)
            teacher: Any = create({"kind": "ensemble", "members": members}, LABELS, book)
            try:
                await runner.make_calls(teacher, questions, StoredBatchAccount(store, book))
                answers = await teacher.ask(pool(5))
            except ApiError:
                assert mishaps
            finally:
                await teacher.aclose()
    assert_right(Life(answers), pool(5))
    assert openai.asked_alone == set()
    assert openai.charges == 15
    assert Counter(body["model"] for made in openai.made for _, body in made.requests) == {"m": 10, "dear": 5}
    assert answers[0].cost_usd == pytest.approx(12 * openai.cost)
    assert answers[0].model == "dear-2026-01+m-2026-01"
    assert account(path)[1] == 0
