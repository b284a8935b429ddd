"""Deferred work is done: when there is enough of it, after a while, and before metrics are read."""

import asyncio
from functools import partial

import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter

from service.telemetry import deferred
from service.telemetry.deferred import Deferred
from tests.support.waiting import until


@pytest.fixture
def work():
    """The work that was done."""
    return []


async def put_off(work, count):
    put = Deferred()
    for number in range(count):
        put.add(partial(work.append, number))
    await asyncio.sleep(0)
    return put


async def test_little_work_waits(work):
    await put_off(work, deferred._BATCH - 1)
    assert work == []


async def test_enough_work_is_done_in_order_when_the_event_loop_is_free(work):
    await put_off(work, deferred._BATCH + 3)
    assert work == list(range(deferred._BATCH + 3))


async def test_little_work_is_done_after_a_while_each_time(work, monkeypatch):
    monkeypatch.setattr(deferred, "_SECONDS", 0.001)
    put = await put_off(work, 2)
    await until(lambda: len(work) == 2)
    put.add(lambda: work.append("again"))
    await until(lambda: len(work) == 3)
    assert work == [0, 1, "again"]


async def test_a_registry_that_is_read_is_up_to_date():
    registry, put = CollectorRegistry(), Deferred()
    registry.register(put)
    counter = Counter("answers", "Answers.", registry=registry)
    put.add(counter.inc)
    assert registry.get_sample_value("answers_total") == 1
    assert registry.get_sample_value("answers_total") == 1


async def test_a_failure_does_not_prevent_other_work(work):
    put = await put_off(work, 2)
    put.add(lambda: 1 / 0)
    put.add(lambda: work.append("after"))
    with structlog.testing.capture_logs() as log:
        put.flush()
    assert work == [0, 1, "after"]
    assert [line["event"] for line in log] == ["deferred work failed"]
