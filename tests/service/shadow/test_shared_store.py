"""Several processes with one shared store: each text is asked about once, and every process shows all of it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.errors import InvalidRequestError
from service.monitor.evalues import EDetector
from service.shadow import view as shadow_view
from service.shadow.errors import ShadowError
from tests.support.waiting import until

from .conftest import REFERENCE, PlayedTeacher, Shadow, answer, disagree, hang

SERVING = {"ask": False, "teacher": None}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(shadow_view, "READ_SECONDS", 0.0)
    monkeypatch.setattr("service.shadow.worker.POLL_SECONDS", 0.02)


@pytest.fixture
def make(make_shadow, shared_store):
    def make(played=None, **settings) -> Shadow:
        return make_shadow(played, database=shared_store.url, **settings)

    return make


async def some_disagree(texts):
    return [answer("shipping" if texts[0].endswith("3") else "billing", cost_usd=0.5, tokens=3)]


async def seen(shadow: Shadow) -> dict:
    await shadow.pipeline.refresh()
    return shadow.pipeline.gap()


async def ended(store, count: int) -> None:
    await until(lambda: store.execute("SELECT count(*) FROM rows WHERE outcome IS NOT NULL") == [(count,)])


def recount(store) -> dict:
    """Count from the rows alone."""
    query = "SELECT count(*), count(agree), coalesce(sum(1 - agree), 0) FROM rows"
    ((sampled, compared, disagreements),) = store.execute(query)
    return {"sampled": sampled, "compared": compared, "disagreements": disagreements}


async def test_every_process_shows_what_all_of_them_counted(make, shared_store):
    one, two = await make(**SERVING).start(), await make(**SERVING).start()
    worker = await make(some_disagree, concurrency=4).start()
    one.observe(40)
    two.observe(30, top=0.5)
    worker.observe(5)
    await ended(shared_store, 75)
    await until(lambda: sum(worker.pipeline._ledger.in_flight) == 0)
    expected = recount(shared_store) | {"requests": 75}
    assert expected["disagreements"] > 0
    for shadow in (one, two, worker):
        found = await seen(shadow)
        assert found["counts"] == expected
        assert found["teacher"]["name"] == "played"
        assert found["outcomes"]["completed"] == 75
        assert found["cost"]["usd"] == 75 * 0.5
        assert found["queue"] == {"waiting": 0, "in_flight": 0, "oldest_age_seconds": None, "abandoned": {}}
        assert shadow.pipeline._ledger.missing == [0] * 5
    assert (await seen(one))["gap"] == (await seen(two))["gap"] == (await seen(worker))["gap"]
    assert (await one.pipeline.disagreements(100)) == (await worker.pipeline.disagreements(100))
    assert len((await one.pipeline.disagreements(100))["rows"]) == expected["disagreements"]
    detector = EDetector(REFERENCE.null)
    for band, agree in shared_store.execute("SELECT band, agree FROM rows ORDER BY finished"):
        detector.update(band, not agree)
    assert (await seen(two))["evidence"]["edetector"] == detector.value


async def test_counters_are_of_the_process_and_add_up_over_processes(make, shared_store):
    serving, worker = await make(**SERVING).start(), await make().start()
    serving.observe(12)
    await ended(shared_store, 12)
    await until(lambda: worker.outcomes() == {"completed": 12})
    assert serving.outcomes() == {}
    assert serving.metric("shadow_sampled_total") == serving.metric("shadow_handed_over_total") == 12
    assert worker.metric("shadow_resumed_total") == 12
    assert (serving.metric("requests_total"), worker.metric("requests_total")) == (12, 0)
    assert serving.unaccounted() == worker.unaccounted() == 0


async def test_a_text_is_asked_about_once_by_however_many(make, shared_store):
    serving = await make(**SERVING).start()
    teachers = [PlayedTeacher(), PlayedTeacher()]
    workers = [await make(teacher, concurrency=3).start() for teacher in teachers]
    serving.observe(60)
    await ended(shared_store, 60)
    asked = [text for teacher in teachers for text in teacher.asked]
    assert sorted(asked) == sorted({f"text {number}" for number in range(1, 61)})
    await until(lambda: sum(worker.outcomes().get("completed", 0) for worker in workers) == 60)


async def test_rows_of_a_killed_process_are_asked_about_after_their_lease(make, shared_store):
    killed = await make(hang, concurrency=2, deadline_seconds=0.1, lease_seconds=0.6).start()
    killed.observe(2)
    await until(lambda: len(killed.teacher.asked) == 2)
    killed.pipeline._active.asking.worker._stopping = True
    for task in killed.pipeline._active.asking.tasks:
        task.cancel()
    other = await make(concurrency=2, deadline_seconds=0.1, lease_seconds=0.6).start()
    assert shared_store.execute("SELECT count(*) FROM rows WHERE lease > now()") == [(2,)]
    await asyncio.sleep(0.1)
    assert other.teacher.asked == []  # the leases hold
    await ended(shared_store, 2)
    assert sorted(other.teacher.asked) == ["text 1", "text 2"]


async def test_an_answer_after_the_lease_is_not_counted_twice(make, shared_store):
    go_on = asyncio.Event()

    async def late(texts):
        await go_on.wait()
        return [answer("shipping")]

    slow = await make(late, deadline_seconds=30.0, lease_seconds=61.0).start()
    slow.observe(1)
    await until(lambda: slow.teacher.asked == ["text 1"])
    shared_store.execute("UPDATE rows SET lease = now() - interval '1 second'")
    quick = await make().start()
    await ended(shared_store, 1)
    go_on.set()
    await until(lambda: sum(slow.pipeline._ledger.in_flight) == 0)
    assert (slow.outcomes(), quick.outcomes()) == ({}, {"completed": 1})
    assert (await seen(slow))["counts"] == {"requests": 1, "sampled": 1, "compared": 1, "disagreements": 0}
    assert slow.pipeline._ledger.missing == [0] * 5


async def test_a_stop_leaves_rows_to_others_at_once(make, shared_store):
    worker = await make(hang, concurrency=2, stop_seconds=0.5).start()
    worker.observe(4)
    await until(lambda: len(worker.teacher.asked) == 2)
    await worker.pipeline.stop()
    assert shared_store.execute("SELECT count(*), count(lease) FROM rows WHERE outcome IS NULL") == [(4, 0)]


async def test_while_the_database_is_gone_texts_and_answers_wait(make, shared_store):
    go_on = asyncio.Event()

    async def wait(texts):
        await go_on.wait()
        return [answer("shipping")]

    serving, worker = await make(**SERVING).start(), await make(wait, concurrency=2).start()
    serving.observe(2)
    await until(lambda: len(worker.teacher.asked) == 2)
    shared_store.server.stop()
    try:
        go_on.set()
        serving.observe(30)
        await until(lambda: serving.pipeline._active.writer._failing and worker.pipeline._active.asking.worker._failing)
        assert serving.outcomes() == worker.outcomes() == {}
        assert serving.unaccounted() == worker.unaccounted() == 0
    finally:
        shared_store.server.start()
    await ended(shared_store, 32)
    await until(lambda: worker.outcomes() == {"completed": 32})
    assert (await seen(serving))["counts"] == {"requests": 32, "sampled": 32, "compared": 32, "disagreements": 32}
    assert sorted(worker.teacher.asked) == sorted(f"text {number}" for number in range(1, 33))


async def test_what_does_not_fit_while_the_database_is_gone_is_named(make, shared_store):
    serving = await make(**SERVING, queue_rows=10).start()
    serving.observe(3)
    await until(lambda: serving.pipeline._ledger.queued == 0)
    shared_store.server.stop()
    try:
        serving.observe(14)
        assert serving.outcomes() == {"queue_full": 4}
    finally:
        shared_store.server.start()
    await until(lambda: serving.pipeline._ledger.queued == 0)
    found = await seen(serving)
    assert found["counts"]["requests"] == found["counts"]["sampled"] == 17
    assert found["outcomes"]["queue_full"] == 4
    assert shared_store.execute("SELECT count(*) FROM rows") == [(13,)]


async def test_a_process_that_asks_nobody_starts_without_its_database(make, shared_store, monkeypatch):
    monkeypatch.setattr(shadow_view, "UNREAD_SECONDS", 0.0)
    shared_store.server.stop()
    try:
        serving = await make(**SERVING).start()
        serving.observe(5)
        found = await seen(serving)
        assert found["verdict"] == "blind"
        assert "could not be read" in found["message"]
        with pytest.raises(ShadowError, match=r"127\.0\.0\.1.*check that it runs"):
            await make().start()
    finally:
        shared_store.server.start()
    await until(lambda: serving.pipeline._ledger.queued == 0)
    assert (await seen(serving))["counts"]["sampled"] == 5


async def test_counts_of_texts_without_a_teacher_yet_become_those_of_the_first(make, shared_store):
    serving = await make(**SERVING).start()
    serving.observe(6)
    await until(lambda: serving.pipeline._ledger.queued == 0)
    found = await seen(serving)
    assert (found["teacher"], found["counts"]["requests"], found["queue"]["waiting"]) == (None, 6, 6)
    await make().start()
    await ended(shared_store, 6)
    found = await seen(serving)
    assert found["counts"] == {"requests": 6, "sampled": 6, "compared": 6, "disagreements": 0}
    assert found["teacher"]["version"] == "1"


async def test_another_teacher_takes_over(make, shared_store):
    serving, first = await make(**SERVING).start(), await make(PlayedTeacher(version="1")).start()
    serving.observe(3)
    await ended(shared_store, 3)
    await first.pipeline.stop()
    serving.observe(4)
    await until(lambda: serving.pipeline._ledger.queued == 0)
    await make(PlayedTeacher(version="2")).start()
    await ended(shared_store, 7)
    found = await seen(serving)
    assert found["teacher"]["version"] == "2"
    assert (found["counts"]["sampled"], found["counts"]["compared"]) == (4, 4)
    assert shared_store.execute("SELECT teacher, count(*) FROM rows GROUP BY 1 ORDER BY 1") == [
        ("played@1", 3), ("played@2", 4),
    ]  # fmt: skip


async def test_that_nobody_asks_is_seen_also_by_who_has_just_started(make, shared_store, monkeypatch):
    monkeypatch.setattr("service.monitor.blindness.SILENT_SECONDS", 0.0)
    serving = await make(**SERVING).start()
    serving.observe(4)
    await until(lambda: serving.pipeline._ledger.queued == 0)
    assert (await seen(serving))["blind"] == []  # too few to say
    serving.observe(8)
    await until(lambda: serving.pipeline._ledger.queued == 0)
    other = await make(**SERVING).start()
    for shadow in (serving, other):
        assert "although 12 were sampled" in (await seen(shadow))["message"]
    await make().start()
    await ended(shared_store, 12)
    for shadow in (serving, other):
        assert (await seen(shadow))["blind"] == []


async def test_texts_of_a_version_that_nobody_asks_about_are_named(make, shared_store, monkeypatch):
    monkeypatch.setattr("service.shadow.shared.outbox.LOOK_SECONDS", 0.0)
    serving = await make(**SERVING).start()
    serving.observe(3)
    await until(lambda: shared_store.execute("SELECT count(*) FROM rows") == [(3,)])
    for change, abandoned in (
        ("bundle = 'old'", {}),  # perhaps a worker is just about to start
        ("time = time - 700", {"old": 3}),
        ("lease = now() + interval '1 minute' WHERE seq = 1", {}),  # somebody asks
        ("lease = now() - interval '1 minute'", {"old": 3}),
        ("outcome = 'completed' WHERE seq > 1", {"old": 1}),
        (f"bundle = '{serving.pipeline._manifest.version}'", {}),  # what waits for this version is `waiting`
    ):
        shared_store.execute(f"UPDATE rows SET {change}")
        assert (await seen(serving))["queue"]["abandoned"] == abandoned, change
        assert serving.metric("shadow_store_abandoned") == sum(abandoned.values())


async def test_a_backlog_of_others_counts(make, shared_store):
    serving = await make(**SERVING, backlog_rows=5).start()
    for _ in range(6):
        serving.observe(1)
        await until(lambda: serving.pipeline._ledger.queued == 0)
        serving.pipeline._active.outbox._counted = 0.0
    serving.observe(3)
    assert serving.outcomes()["queue_full"] >= 3
    assert shared_store.execute("SELECT count(*) FROM rows")[0][0] <= 6


async def test_a_process_that_asks_nobody_answers_no_questions(make):
    serving = await make(**SERVING).start()
    with pytest.raises(InvalidRequestError, match="reflux worker"):
        await serving.pipeline.ask("text")


async def test_restarts_go_on_with_the_counts(make, shared_store):
    for _ in range(3):
        shadow = await make(disagree).start()
        await shadow.process(4)
        shadow.observe(1)
        await shadow.pipeline.stop()
    shadow = await make(disagree).start()
    await ended(shared_store, 15)
    found = await seen(shadow)
    assert found["counts"] == {"requests": 15, "sampled": 15, "compared": 15, "disagreements": 15}


async def test_one_of_several_watches_the_teacher(make, shared_store):
    workers = [await make().start() for _ in range(2)]
    leads = [await w.pipeline._active.thread.call(w.pipeline._active.outbox.lead) for w in workers]
    assert leads == [True, False]
    await workers[0].pipeline.stop()
    active = workers[1].pipeline._active
    await until(lambda: active.outbox.lead())


async def test_ceilings_are_lowered_once_for_all(make, shared_store, monkeypatch):
    monkeypatch.setattr("service.shadow.tightening.ENOUGH", 20)
    monkeypatch.setattr("service.shadow.worker.LOOK_SECONDS", 0.0)
    serving = await make(**SERVING).start()
    workers = [await make(some_disagree, concurrency=2).start() for _ in range(2)]
    serving.observe(60)
    await ended(shared_store, 60)
    await until(lambda: shared_store.execute("SELECT count(*) FROM ceilings") == [(1,)])
    for shadow in (serving, *workers):
        await shadow.pipeline.refresh()
        assert len(shadow.pipeline._view.ledger.ceilings) == 2
        assert np.all(shadow.pipeline._view.ledger.null <= REFERENCE.null)
