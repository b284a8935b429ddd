"""Disk faults disturb no request; lost texts are counted, and shadowing recovers with the disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest

from service.shadow.outbox.store import Outbox
from tests.support.waiting import until

from .conftest import Shadow, answer, hang


async def works_again(shadow: Shadow) -> None:
    before = shadow.outcomes().get("completed", 0)
    await shadow.process(5)
    assert shadow.outcomes().get("completed", 0) == before + 5


async def fails(shadow: Shadow, count: int = 4) -> None:
    before = shadow.outcomes().get("store_error", 0)
    shadow.observe(count)
    await until(lambda: shadow.outcomes().get("store_error", 0) == before + count)
    assert shadow.unaccounted() == 0


@pytest.fixture
async def shadow(make_shadow) -> Shadow:
    shadow = await make_shadow().start()
    await shadow.process(3)
    return shadow


async def test_full_disk(make_shadow):
    shadow = await make_shadow(max_bytes=2**20).start()
    shadow.observe(40, text="x" * 150_000)
    await until(lambda: shadow.outcomes().get("store_error", 0) == 40)
    assert shadow.unaccounted() == 0
    shadow.pipeline._active.outbox.max_bytes = 2**30
    await works_again(shadow)
    assert shadow.pipeline.gap()["counts"]["requests"] == 45


async def test_locked_database(shadow):
    with sqlite3.connect(shadow.settings.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        shadow.observe(4)
        await until(lambda: shadow.pipeline._active.writer._failing)
        shadow.observe(4)
        other.execute("ROLLBACK")
    await shadow.settled()
    assert shadow.outcomes() == {"completed": 3 + 8}
    assert [row[0] for row in shadow.rows("text")] == [f"text {number}" for number in range(1, 12)]  # in their order
    await works_again(shadow)


async def test_while_a_database_is_locked_texts_are_dropped_only_when_the_queue_is_full(make_shadow, monkeypatch):
    attempts, write = [], Outbox.write
    monkeypatch.setattr(Outbox, "write", lambda *args: attempts.append(1) or write(*args))
    shadow = await make_shadow(queue_rows=300).start()
    shadow.pipeline._active.outbox._busy_seconds = 0.0
    with sqlite3.connect(shadow.settings.path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        shadow.observe(300)
        await until(lambda: len(attempts) > 10)  # as many as in any number of seconds
        assert shadow.outcomes() == {}
        shadow.observe(5)
        assert shadow.outcomes() == {"queue_full": 5}
        assert shadow.unaccounted() == 0
        other.execute("ROLLBACK")
    await shadow.settled()
    assert shadow.outcomes() == {"completed": 300, "queue_full": 5}


async def test_a_start_waits_for_a_locked_database(make_shadow):
    await (await make_shadow().start()).pipeline.stop()
    shadow = make_shadow()
    with sqlite3.connect(shadow.settings.path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        starting = asyncio.create_task(shadow.start())
        await asyncio.sleep(0.1)
        assert not starting.done()
        other.execute("ROLLBACK")
    await starting
    await works_again(shadow)


async def test_answers_wait_for_a_locked_database(make_shadow):
    async def reply(texts):
        if not other.in_transaction:
            other.execute("BEGIN IMMEDIATE")
        return [answer(cost_usd=1.0)]

    shadow = await make_shadow(reply, concurrency=2).start()
    other = sqlite3.connect(shadow.settings.path, isolation_level=None)
    shadow.observe(4)
    await until(lambda: shadow.metric("shadow_inflight") == 2 and len(shadow.teacher.asked) == 2)
    await until(lambda: shadow.pipeline._active.asking.worker._failing)
    assert shadow.metric("shadow_compared_total") == 0  # not stored, so not counted, and nobody else is asked
    assert len(shadow.teacher.asked) == 2
    assert shadow.unaccounted() == 0
    shadow.teacher.reply = lambda texts: _answers()
    other.execute("ROLLBACK")
    other.close()
    await shadow.settled()
    assert shadow.outcomes() == {"completed": 4}
    assert len(shadow.teacher.asked) == 4  # what was paid for was not asked again


async def _answers():
    return [answer(cost_usd=1.0)]


async def test_deleted_database(shadow):
    shadow.settings.path.unlink()
    await works_again(shadow)
    assert len(shadow.rows()) == 5
    assert shadow.pipeline.gap()["counts"]["requests"] == 8


async def test_database_deleted_with_rows_that_wait(make_shadow):
    shadow = await make_shadow(hang, deadline_seconds=0.2, concurrency=1).start()
    shadow.observe(6)
    await until(lambda: shadow.metric("shadow_inflight") == 1 and len(shadow.rows()) == 6)
    shadow.settings.path.unlink()
    await shadow.settled()
    assert shadow.outcomes() == {"store_error": 6}
    await shadow.pipeline.stop()
    again = await make_shadow().start()
    assert again.pipeline.gap()["counts"] == {"requests": 6, "sampled": 6, "compared": 0, "disagreements": 0}


async def test_directory_gone_and_back(make_shadow, directory):
    shadow = await make_shadow(path=directory / "volume" / "shadow.sqlite").start()
    (directory / "volume").rename(directory / "away")
    await fails(shadow)
    (directory / "away").rename(directory / "volume")
    await works_again(shadow)


async def test_corrupt_database(shadow, directory):
    for file in directory.glob("shadow.sqlite-*"):
        file.unlink()  # from its log alone, SQLite would bring the database back
    (directory / "garbage").write_bytes(b"garbage " * 1000)
    (directory / "garbage").replace(shadow.settings.path)
    await fails(shadow)
    assert shadow.settings.path.read_bytes().startswith(b"garbage")  # for a person to look at
    shadow.settings.path.unlink()
    await works_again(shadow)


async def test_damaged_pages(shadow):
    with sqlite3.connect(shadow.settings.path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with shadow.settings.path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * (file.seek(0, 2) - 100))
    shadow.observe(5)
    await until(lambda: shadow.pipeline._ledger.queued == 0 or shadow.outcomes().get("store_error", 0) > 0)
    assert shadow.metric("requests_total") == 8
    assert shadow.unaccounted() == 0


async def test_stop_ends_though_the_disk_hangs(make_shadow, monkeypatch):
    wakes, write = threading.Event(), Outbox.write

    reached = threading.Event()

    def stuck(*args):
        reached.set()
        wakes.wait()
        write(*args)

    shadow = await make_shadow(stop_seconds=0.3).start()
    monkeypatch.setattr(Outbox, "write", stuck)
    shadow.observe(3)
    await until(reached.is_set)
    shadow.observe(4)
    await shadow.pipeline.stop()
    assert shadow.outcomes() == {"shutdown": 7}
    assert shadow.unaccounted() == 0
    wakes.set()


async def test_stop_ends_with_a_locked_database(shadow):
    with sqlite3.connect(shadow.settings.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        shadow.observe(5)
        await shadow.pipeline.stop()
        other.execute("ROLLBACK")
    assert shadow.unaccounted() == 0
    assert sum(shadow.outcomes().values()) == 3 + 5
