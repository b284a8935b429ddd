"""A client that leaves frees its places in the queue, and nothing of its request remains."""

import asyncio
import gc
import threading
import weakref
from functools import partial

import pytest
from starlette.requests import ClientDisconnect

from service.errors import OverloadedError
from service.inference.batching import ALONE
from service.inference.disconnects import await_answer
from tests.support.scheduling import Bench, Graph, said, until
from tests.support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def watch_at_once(monkeypatch):
    monkeypatch.setattr("service.inference.disconnects._WATCH_SECONDS", 0.0)


async def test_a_client_that_leaves_frees_its_places_at_once(start):
    bench = start(queue_limit=2)
    held = await bench.hold()
    left = asyncio.Event()
    leaving = bench.ask("b", "c", leaving=left.wait)
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await bench.classify("d")
    left.set()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(leaving, PATIENCE)
    assert bench.load == (0, 1)
    other = bench.ask("e", "f")
    await asyncio.sleep(0)
    bench.graph.gate.set()
    assert [said(await request) for request in (held, other)] == [["held"], ["e", "f"]]
    assert bench.graph.runs == [["held"], ["e", "f"]]


async def test_a_client_that_leaves_while_its_texts_are_tokenised_frees_their_places_too(start):
    left = asyncio.Event()
    tokenising, gone = threading.Event(), threading.Event()

    class Slow(Graph):
        def encode(self, text):
            if text == "c":
                tokenising.set()
                assert gone.wait(PATIENCE)
            return super().encode(text)

    bench = start(Slow(), limits=ALONE)
    held = await bench.hold()
    staying, leaving = bench.ask("a"), bench.ask("b", "c", leaving=left.wait)
    await asyncio.sleep(0)
    bench.graph.gate.set()
    assert await asyncio.to_thread(tokenising.wait, PATIENCE)
    await held
    bench.graph.gate.clear()
    left.set()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(leaving, PATIENCE)
    gone.set()
    await bench.begun()
    assert bench.gauge("queue_depth") == 0
    bench.graph.gate.set()
    assert said(await staying) == ["a"]


async def test_a_client_that_leaves_during_its_run_disturbs_no_other(start):
    bench = start()
    held = await bench.hold()
    left = asyncio.Event()
    leaving, other = bench.ask("b", leaving=left.wait), bench.ask("c")
    await asyncio.sleep(0)
    bench.graph.gate.set()
    await held
    bench.graph.gate.clear()
    left.set()
    outcome = await asyncio.gather(leaving, return_exceptions=True)
    bench.graph.gate.set()
    assert said(await other) == ["c"]
    assert isinstance(outcome[0], ClientDisconnect) or said(outcome[0]) == ["b"]


async def test_a_client_that_was_answered_is_not_watched_any_more(start):
    bench = start()
    held = await bench.hold()
    watched = asyncio.Event()

    async def leaving():
        watched.set()
        await asyncio.Event().wait()

    request = bench.ask("b", leaving=leaving)
    await asyncio.wait_for(watched.wait(), PATIENCE)
    bench.graph.gate.set()
    await asyncio.gather(held, request)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("how", ["answered", "cancelled"])
async def test_a_watched_request_and_its_scheduler_are_freed_without_garbage_collection(how):
    watched = asyncio.Event()

    async def leaving():
        watched.set()
        await asyncio.Event().wait()

    class Texts(list):
        """Can be referred to weakly."""

    async def serve():
        bench = Bench()
        bench.scheduler.start()
        held = await bench.hold()
        texts = Texts(["b"])
        request = asyncio.create_task(await_answer(partial(bench.scheduler.submit, texts), leaving))
        await asyncio.wait_for(watched.wait(), PATIENCE)
        if how == "cancelled":
            request.cancel()
        bench.graph.gate.set()
        await held
        await asyncio.wait([request])
        await bench.scheduler.close()
        return weakref.ref(texts), weakref.ref(bench.scheduler)

    gc.collect()
    gc.disable()
    try:
        kept = await serve()
        await until(lambda: [one() for one in kept] == [None, None])
    finally:
        gc.enable()
