"""A teacher is asked about the anchors and about some texts twice; a change is named, and no fault of it disturbs."""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
from collections import Counter
from typing import Any

import httpx
import numpy as np
import pytest

from distill.teachers import Answer, TeacherError, create
from export.bundle.anchors import Anchor
from service.monitor.teacher_drift import FIRST_DRAWS, LOG_DRIFT
from service.shadow import teacher as shadow_teacher
from service.shadow.errors import OutboxError
from service.shadow.outbox.store import Outbox
from service.shadow.teacher_report import model_change, teacher_drift
from tests.support.http_server import serving
from tests.support.waiting import until

from .conftest import LABELS, PlayedTeacher, Shadow, hang

ANCHORS = [Anchor(f"anchor {number}", LABELS[number % 3]) for number in range(60)]
FAST = 86400 * 2000
"""Anchors per day, of which one is due every half millisecond."""


class Talker(PlayedTeacher):
    """Gives a text that ends in a number the label with that number modulo 3, or as `labels_of` says otherwise.

    `draws` counts the repeats that it was asked with. It answers as a teacher whose answers may vary.
    """

    def __init__(self, **said: Any) -> None:
        super().__init__()
        self.said = {"method": "logprobs", "cost_usd": 0.001, **said}
        self.otherwise: dict[int, int] = {}
        self.draws: Counter[int] = Counter()
        self.fault: Any = None

    async def ask(self, texts: Any, repeat: int = 0) -> Any:
        self.asked += texts
        self.draws[repeat] += 1
        if self.fault is not None:
            return await self.fault(texts)
        number = int(texts[0].split()[-1])
        row = np.full(3, 0.01, np.float32)
        row[self.otherwise.get(number % 60, number % 3)] = 0.98
        return [Answer(row, **self.said)]


@pytest.fixture
def make(make_shadow):
    """`make(teacher, anchors=, **settings)`: a pipeline whose bundle has anchors, all asked about every few moments."""

    def make_watched(played: PlayedTeacher, anchors: list[Anchor] = ANCHORS, **settings: Any) -> Shadow:
        shadow = make_shadow(played, **{"anchors_per_day": FAST, "repeat_rate": 0.0, **settings})
        shadow.pipeline._anchors = anchors
        return shadow

    return make_watched


def watch_of(shadow: Shadow) -> Any:
    return shadow.pipeline._active.asking.watch


def section_of(shadow: Shadow) -> dict[str, Any]:
    return teacher_drift(watch_of(shadow))[0]


def stored(shadow: Shadow, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{shadow.settings.path}?mode=ro", uri=True)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def rounds(shadow: Shadow, count: int) -> None:
    """Wait until every anchor was asked about `count` times more, after its first contact."""
    drift = watch_of(shadow).drift
    await until(lambda: drift.met == len(drift.anchors))
    goal = drift.asked + count * len(drift.anchors)
    await until(lambda: drift.asked >= goal)


async def test_anchors_are_asked_again_and_again_and_a_steady_teacher_is_ok(make):
    shadow = await make(Talker()).start()
    await rounds(shadow, 2)
    section, sentence = teacher_drift(watch_of(shadow))
    assert (section["status"], sentence) == ("ok", None)
    assert section["anchors"]["count"] == 60
    assert section["anchors"]["changed"] == 0
    pairs = 60 * (FIRST_DRAWS - 1)
    assert section["noise"] == {"repeats": pairs, "changed": 0, "upper": pytest.approx(1 - 0.05 ** (1 / pairs))}
    assert section["cost_usd"] == pytest.approx(0.001 * section["anchors"]["asked"])
    assert section["message"] == "The teacher answers 60 of 60 anchors as recorded."
    assert set(shadow.teacher.draws) == set(range(1, FIRST_DRAWS + 1))  # never repeat 0, which a cache may answer
    assert shadow.metric("teacher_anchors", changed="false") == 60
    assert shadow.metric("teacher_drift") == 0
    assert shadow.metric("teacher_log_evalue") < 0
    assert shadow.metric("teacher_watch_cost_usd_total") == pytest.approx(section["cost_usd"], rel=0.1)


async def test_nothing_of_it_enters_the_gap(make):
    shadow = await make(Talker(), repeat_rate=1.0).start()
    await rounds(shadow, 1)
    await shadow.process(7, text="text 0")
    await until(lambda: len(stored(shadow, "SELECT * FROM repeats")) == 7)
    assert shadow.outcomes() == {"completed": 7}
    assert shadow.pipeline.gap()["counts"] == {"requests": 7, "sampled": 7, "compared": 7, "disagreements": 0}
    assert shadow.metric("shadow_cost_usd_total") == pytest.approx(0.007)


async def test_a_teacher_that_changes_some_labels_is_named_within_one_round(make):
    shadow = await make(Talker()).start()
    await rounds(shadow, 1)
    shadow.teacher.otherwise = {0: 1, 9: 2, 20: 0, 33: 1}
    await until(lambda: section_of(shadow)["status"] == "drift")
    await until(lambda: section_of(shadow)["anchors"]["changed"] == 4)
    section, sentence = teacher_drift(watch_of(shadow))
    assert section["message"] == f"{sentence}."
    assert sentence.startswith("The teacher has changed: 4 of 60 anchors are not answered as recorded")
    assert section["log_evalue"] >= LOG_DRIFT
    assert shadow.metric("teacher_drift") == 1
    assert shadow.metric("teacher_anchors", changed="true") == 4
    shadow.teacher.otherwise = {}
    await until(lambda: section_of(shadow)["status"] == "ok")


async def test_a_teacher_that_never_answered_as_recorded_is_said_to_be_another(make):
    shadow = make(Talker())
    shadow.teacher.otherwise = {number: (number + 1) % 3 for number in range(0, 60, 6)}
    await shadow.start()
    await rounds(shadow, 1)
    section, sentence = teacher_drift(watch_of(shadow))
    assert section["status"] == "drift"
    assert sentence.startswith("The teacher differed from its recorded answers as soon as it was asked: on 10 of 60")


async def test_a_constant_teacher_is_asked_once_a_round_and_no_text_twice(make):
    shadow = await make(Talker(method="local"), repeat_rate=1.0).start()
    await rounds(shadow, 1)
    await shadow.process(5, text="text 0")
    assert set(shadow.teacher.draws) == {0, 1}
    assert stored(shadow, "SELECT * FROM repeats") == []
    assert section_of(shadow)["noise"]["upper"] == 0.001


async def test_repeats_measure_the_noise_and_say_which_text(make):
    shadow = await make(Talker(), anchors=[], repeat_rate=1.0, concurrency=1).start()
    await shadow.process(3, text="text 0")
    await until(lambda: watch_of(shadow).drift.pairs == 3)
    shadow.teacher.fault = alternating()
    await shadow.process(2, text="text 0")
    await until(lambda: watch_of(shadow).drift.pairs == 5)
    section = section_of(shadow)
    assert section["status"] == "off"
    assert section["noise"]["changed"] == 2
    assert stored(shadow, "SELECT first, second FROM repeats") == [(0, 0)] * 3 + [(0, 1)] * 2
    assert len(stored(shadow, "SELECT * FROM rows JOIN repeats USING (id)")) == 5


def alternating() -> Any:
    turn = iter(range(10**6))

    async def reply(texts: Any) -> list[Answer]:
        return [Answer(np.roll(np.array([0.98, 0.01, 0.01], np.float32), next(turn) % 2), "logprobs")]

    return reply


async def test_repeats_are_as_frequent_as_the_setting_says(make):
    shadow = await make(Talker(), anchors=[], repeat_rate=0.2, concurrency=8).start()
    await shadow.process(300, text="text 0")
    assert 30 <= shadow.teacher.draws[1] <= 95


async def test_everything_goes_on_where_it_was_after_a_restart(make):
    shadow = await make(Talker(model="m-1", fingerprint="fp"), repeat_rate=1.0).start()
    await rounds(shadow, 1)
    shadow.teacher.otherwise = {0: 1, 9: 2, 20: 0, 33: 1}
    await until(lambda: section_of(shadow)["anchors"]["changed"] == 4)
    await shadow.process(3, text="text 0")
    watch = watch_of(shadow)
    await shadow.pipeline.stop()
    before, models = teacher_drift(watch)[0], watch.models.newest()
    again = make(Talker(), anchors_per_day=1)
    await again.start()
    after = section_of(again)
    assert {**after, "cost_usd": 0, "log_evalue": 0} == {**before, "cost_usd": 0, "log_evalue": 0}
    assert after["cost_usd"] == pytest.approx(before["cost_usd"])
    assert watch_of(again).models.newest() == models
    assert models[0]["model"] == "m-1"
    assert again.teacher.asked == []  # the next anchor is due tomorrow


async def raise_error(texts: Any) -> Any:
    raise TeacherError("down")


async def say_nothing(texts: Any) -> Any:
    return []


@pytest.mark.parametrize("fault", [raise_error, hang], ids=["down", "hanging"])
async def test_while_the_teacher_fails_anchors_wait_and_requests_are_shadowed_as_ever(make, fault):
    shadow = await make(Talker(), deadline_seconds=0.02, concurrency=1).start()
    await rounds(shadow, 1)
    shadow.teacher.fault = fault
    await until(lambda: watch_of(shadow).failed >= 25)  # more than open a breaker
    assert shadow.metric("shadow_breaker_state") == 0
    asked = section_of(shadow)["anchors"]["asked"]
    await shadow.process(3, text="text 0")
    assert shadow.outcomes() == {"timeout" if fault is hang else "teacher_error": 3}
    assert section_of(shadow)["anchors"]["asked"] == asked
    assert section_of(shadow)["status"] == "ok"
    shadow.teacher.fault = None
    await rounds(shadow, 1)
    assert section_of(shadow)["anchors"]["changed"] == 0


async def test_an_open_breaker_holds_anchors_back(make):
    shadow = make(Talker())
    shadow.teacher.fault = raise_error
    await shadow.start()
    shadow.observe(25, text="text 0")
    await until(lambda: shadow.metric("shadow_breaker_state") == 2)
    await until(lambda: shadow.metric("shadow_queue_depth") + shadow.metric("shadow_inflight") == 0)
    asked = len(shadow.teacher.asked)
    await asyncio.sleep(0.1)
    assert len(shadow.teacher.asked) <= asked + 1  # one may have been under way


async def test_anchors_count_towards_the_budget_and_wait_when_it_is_spent(make):
    shadow = await make(Talker(cost_usd=1.0), usd_per_hour=10.0).start()
    await until(lambda: watch_of(shadow).cost_usd > 0)
    await asyncio.sleep(0.05)
    assert watch_of(shadow).cost_usd == 1.0
    assert section_of(shadow)["status"] == "waiting"
    assert section_of(shadow)["message"].startswith("0 of 60 anchors were asked about so far")


async def test_a_teacher_that_names_no_label_any_more_has_changed(make):
    shadow = await make(Talker()).start()
    await rounds(shadow, 1)
    shadow.teacher.fault = say_nothing
    await until(lambda: section_of(shadow)["status"] == "drift")


async def test_stopping_does_not_wait_for_a_hanging_anchor(make):
    shadow = make(Talker(), deadline_seconds=1000.0, stop_seconds=0.3)
    shadow.teacher.fault = hang
    await shadow.start()
    await until(lambda: shadow.teacher.asked)
    async with asyncio.timeout(20):
        await shadow.pipeline.stop()


async def test_while_the_outbox_fails_no_answer_is_lost_and_stopping_works(make, monkeypatch):
    shadow = await make(Talker()).start()
    await rounds(shadow, 1)
    with sqlite3.connect(shadow.settings.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        await until(lambda: len(shadow.teacher.asked) > section_of(shadow)["anchors"]["asked"])
        asked = list(shadow.teacher.asked)
        await asyncio.sleep(0.1)
        assert shadow.teacher.asked == asked  # it keeps the answer and asks nothing more
        other.execute("ROLLBACK")
    await rounds(shadow, 1)
    assert len(stored(shadow, "SELECT * FROM anchors")) == pytest.approx(len(shadow.teacher.asked), abs=2)
    monkeypatch.setattr(Outbox, "add_anchor", broken)
    await until(lambda: len(shadow.teacher.asked) > len(stored(shadow, "SELECT * FROM anchors")))
    async with asyncio.timeout(20):
        await shadow.pipeline.stop()


def broken(*_: Any) -> None:
    raise OutboxError("disk full")


@pytest.mark.parametrize("settings", [{"anchors_per_day": 0}, {"anchors": []}], ids=["switched off", "old bundle"])
async def test_without_anchors_it_is_off_and_has_no_series(make, settings):
    shadow = await make(Talker(), **settings).start()
    await shadow.process(2, text="text 0")
    section, sentence = teacher_drift(watch_of(shadow))
    assert (section["status"], sentence, section["log_evalue"]) == ("off", None, None)
    assert shadow.teacher.draws == {0: 2}
    assert not [
        sample
        for family in shadow.registry.collect()
        for sample in family.samples
        if sample.name in ("reflux_teacher_drift", "reflux_teacher_anchors", "reflux_teacher_log_evalue")
    ]
    assert teacher_drift(None)[0]["status"] == "off"


async def test_models_are_counted_and_a_change_is_said_in_a_sentence(make):
    shadow = await make(Talker(model="m-1", fingerprint="fp_1"), anchors=[]).start()
    await shadow.process(3, text="text 0")
    assert model_change(watch_of(shadow)) is None
    shadow.teacher.said |= {"fingerprint": "fp_2"}
    await shadow.process(2, text="text 0")
    sentence = model_change(watch_of(shadow))
    assert sentence.startswith("Since ")
    assert sentence.endswith(" UTC the teacher's server answers as m-1 (fp_2); before as m-1 (fp_1).")
    newest = watch_of(shadow).models.newest()
    assert [(one["fingerprint"], one["calls"]) for one in newest] == [("fp_2", 2), ("fp_1", 3)]
    assert shadow.metric("teacher_responses_total", model="m-1", fingerprint="fp_1") == 3
    assert shadow.rows("model, fingerprint") == [("m-1", "fp_1")] * 3 + [("m-1", "fp_2")] * 2
    shadow.teacher.said |= {"fingerprint": "fp_1"}
    await shadow.process(1, text="text 0")
    assert model_change(watch_of(shadow)) is None  # both answer in turn


async def test_a_teacher_that_states_a_new_name_each_time_makes_few_series(make):
    shadow = await make(Talker(), anchors=[]).start()
    for number in range(12):
        shadow.teacher.said |= {"model": f"m-{number}", "fingerprint": 7}  # the second is no name
        await shadow.process(1, text="text 0")
    newest = watch_of(shadow).models.newest()
    assert [one["model"] for one in newest] == ["m-11", "m-10", "m-9", "m-8", "m-7", "other"]
    assert sum(one["calls"] for one in newest) == 12
    assert shadow.metric("teacher_responses_total", model="other") == 7
    assert shadow.metric("teacher_responses_total") == 12
    assert {one["fingerprint"] for one in newest} == {None, "other"}


class ChatServer:
    """A chat API that is nearly sure of one label of a prompt: that of the text's number, or `otherwise`."""

    def __init__(self) -> None:
        self.model, self.otherwise = "m-2026-01", dict[int, int]()
        self.chats = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.chats += 1
        system, text = body["messages"][0]["content"], body["messages"][-1]["content"].splitlines()[1]
        code_of = {line.split(": ")[1]: line.split(": ")[0] for line in system.splitlines() if ": " in line[:5]}
        last = text.split()[-1]
        number = int(last) if last.isdigit() else LABELS.index(last)  # a probe asks for the name of a label
        code = code_of[LABELS[self.otherwise.get(number, number % 3)]]
        listed = [{"token": code, "logprob": math.log(0.97), "bytes": None}]
        choice = {
            "message": {"content": code},
            "logprobs": {"content": [{**listed[0], "top_logprobs": listed}]},
            "finish_reason": "length",
        }
        usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
        facts = {"id": f"chat-{self.chats}", "model": self.model, "system_fingerprint": "fp_1"}
        return httpx.Response(200, json={**facts, "choices": [choice], "usage": usage})


async def test_a_real_server_that_changes_its_labels_and_its_model_is_named(make, monkeypatch):
    server = ChatServer()
    async with serving(server) as place:
        config = {"kind": "openai", "base_url": f"{place.url}/v1", "model": "m", "exact": "never"}
        price = {"usd_per_million": {"input": 1, "output": 4}}
        monkeypatch.setattr(shadow_teacher, "create", lambda *_, **__: create({**config, **price}, LABELS))
        learned_from = Talker()
        learned_from.name = "openai:m"
        shadow = make(learned_from)
        await shadow.pipeline.start()
        await rounds(shadow, 1)
        assert section_of(shadow)["status"] == "ok"
        assert section_of(shadow)["cost_usd"] > 0
        server.model, server.otherwise = "m-2026-02", {number: 2 for number in range(0, 60, 9)}
        await until(lambda: section_of(shadow)["status"] == "drift")
        found = shadow.pipeline.gap()
        assert (found["verdict"], found["cause"], found["drift"]["teacher"]["status"]) == ("watch", "teacher", "drift")
        assert found["message"].startswith("The teacher has changed: ")
        assert found["message"].endswith(" answers as m-2026-02 (fp_1); before as m-2026-01 (fp_1).")
        assert [(one["model"], one["fingerprint"]) for one in found["teacher"]["models"]] == [
            ("m-2026-02", "fp_1"),
            ("m-2026-01", "fp_1"),
        ]
        await shadow.pipeline.stop()
