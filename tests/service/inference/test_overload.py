"""While requests are refused, a thread runs the graph in the event loop's place, and every answer stays right."""

import asyncio
import os
import sys
import threading

import pytest

from service.errors import NotReadyError, OverloadedError
from service.inference import overload
from service.inference.batching import Limits
from tests.support import scheduling
from tests.support.scheduling import Known, said, stop_clock, until
from tests.support.waiting import PATIENCE

PLACES = 100
CALM = 0.01
LONG, SHORT = 0.003, 0.001
"""Seconds of a run that is too long for a refusal to wait for, and of one that is not."""

LOOP, THREAD = "MainThread", "inference-0"


class Graph(scheduling.Graph):
    """A graph at which the thread waits before each step until it may; it records the niceness of its runs."""

    def __init__(self):
        super().__init__()
        self.gate.set()
        self.niceness = []
        self.may_encode, self.may_run, self.reached = threading.Event(), threading.Event(), threading.Event()
        self.may_encode.set()
        self.may_run.set()

    def encode(self, text):
        self._wait(self.may_encode)
        return super().encode(text)

    def run(self, rows):
        if hasattr(os, "getpriority"):
            self.niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        answers = super().run(rows)
        self._wait(self.may_run)
        return answers

    def _wait(self, allowed):
        if threading.current_thread().name == THREAD:
            self.reached.set()
            assert allowed.wait(PATIENCE)


class Bench(scheduling.Bench):
    """A scheduler whose event loop normally runs the graph."""

    def __init__(self, clock, run=LONG, rows=2):
        super().__init__(Graph(), workers=0, limits=Limits(1000, rows=rows), queue_limit=PLACES, cost=Known(run=run))
        self.asked, self.clock = [], clock
        self.scheduler.start()

    @property
    def crowded(self):
        return self.scheduler.overload.crowded

    def submit(self, *texts):  # type: ignore[override]  # tells how the requests end, not what withdraws them
        """Submit texts; return what `done` is called with."""
        told, _ = super().submit(*texts)
        self.asked.append((list(texts), told))
        return told

    def refuse(self):
        """Refuse a request."""
        with pytest.raises(OverloadedError):
            self.scheduler.submit(["x"] * (PLACES + 1), None)

    async def calm(self):
        """Let the overload end."""
        self.clock.now += 2 * CALM
        await until(lambda: not self.crowded)

    async def ask(self, *texts):  # type: ignore[override]
        """Submit texts and wait for the answers to all requests."""
        self.submit(*texts)
        await self.answered()

    async def answered(self):
        """Wait until every request was answered, and check that each was, once and correctly."""
        await until(lambda: all(told for _, told in self.asked))
        assert [[said(answers) for answers in told] for _, told in self.asked] == [[texts] for texts, _ in self.asked]

    async def close(self):
        self.graph.may_encode.set()
        self.graph.may_run.set()
        await super().close()


@pytest.fixture
async def start(clock):
    """`start(**options)`: a bench that is closed at the end. Its time stands still unless it is set."""
    benches = []

    def make(**options):
        benches.append(Bench(clock, **options))
        return benches[-1]

    yield make
    for bench in benches:
        await bench.close()


@pytest.fixture
def clock(monkeypatch):
    """The time that schedulers see: the overload ends CALM after a refusal by it. `pauses` are what they sleep."""
    monkeypatch.setattr(overload, "_CALM_SECONDS", CALM)
    return stop_clock(monkeypatch)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("inference")]


async def test_before_the_first_refusal_there_is_no_thread(start):
    bench = start()
    await bench.ask("a")
    assert bench.graph.ran_by == [LOOP]
    assert (threads(), bench.crowded, bench.scheduler.alive) == ([], False, True)


@pytest.mark.parametrize(("run", "runner"), [(LONG, THREAD), (SHORT, LOOP)])
async def test_after_a_refusal_a_thread_makes_the_long_runs_and_the_event_loop_pauses(start, clock, run, runner):
    bench = start(run=run)
    bench.refuse()
    await bench.ask("a", "b", "c")
    assert bench.graph.ran_by == [runner] * 2
    assert len(threads()) == (runner == THREAD)
    assert (bench.crowded, bench.scheduler.alive) == (True, True)
    assert {*clock.pauses} == ({overload._PAUSE_SECONDS} if runner == THREAD else set())
    await bench.calm()
    await asyncio.sleep(0)
    pauses = len(clock.pauses)
    await bench.ask("d")
    assert bench.graph.ran_by == [runner, runner, LOOP]
    assert len(clock.pauses) == pauses
    assert bench.scheduler.alive


async def test_an_early_refusal_counts_as_much(start):
    bench = start(rows=1)
    bench.submit(*"abcdef")
    assert bench.scheduler.refusal(4 * LONG) is not None
    assert bench.crowded
    await bench.answered()
    assert bench.graph.ran_by == [THREAD] * 6


async def test_there_is_one_pause_in_each_turn_however_often_the_overload_ends_and_begins(start, clock):
    bench = start()
    for _ in range(3):
        bench.refuse()
        clock.now += 2 * CALM
        bench.scheduler.overload._end_if_calm()
    bench.refuse()
    await asyncio.sleep(0)
    for _ in range(5):
        before = len(clock.pauses)
        await asyncio.sleep(0)
        assert len(clock.pauses) == before + 1


async def test_each_refusal_postpones_the_end_of_the_overload(start, clock, monkeypatch):
    calls = []
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", lambda *call: calls.append(call))
    bench = start()
    bench.refuse()
    clock.now += 0.75 * CALM
    bench.refuse()
    ((_, calm),) = calls
    clock.now += 0.75 * CALM
    calm()
    assert bench.crowded
    _, (seconds, calm) = calls
    assert seconds == pytest.approx(0.25 * CALM)
    clock.now += 0.3 * CALM
    calm()
    assert not bench.crowded
    assert len(calls) == 2
    monkeypatch.undo()


async def test_the_same_thread_takes_over_each_time(start, clock):
    bench = start()
    for _ in range(3):
        bench.refuse()
        await bench.ask("a")
        await bench.calm()
        await bench.ask("b")
    assert bench.graph.ran_by == [THREAD, LOOP] * 3
    assert len(threads()) == 1


async def test_texts_that_wait_at_each_change_are_answered_once(start, clock):
    bench = start()

    def ask(name):
        for number in range(5):
            bench.submit(*(f"{name} {number} {place}" for place in range(3)))

    ask("first")
    await until(lambda: bench.graph.runs)
    assert bench.gauge("queue_depth"), "some of it is left to the thread"
    bench.graph.may_run.clear()
    bench.refuse()
    ask("second")
    await until(lambda: bench.graph.ran_by[-1] == THREAD)
    clock.now += 2 * CALM
    ask("third")
    await until(lambda: not bench.crowded)
    await until(lambda: not bench.gauge("queue_depth"))
    assert bench.graph.ran_by[-1] == LOOP, "though the thread is on its run still"
    assert bench.scheduler.alive
    bench.graph.may_run.set()
    await bench.answered()
    texts = [text for run in bench.graph.runs for text in run]
    assert sorted(texts) == sorted(text for asked, _ in bench.asked for text in asked), "each was run once"


async def test_texts_that_the_thread_puts_back_after_the_change_are_answered_too(start, clock):
    bench = start(rows=2)
    bench.graph.may_encode.clear()
    bench.refuse()
    bench.submit("a", "b", "c")
    assert await asyncio.to_thread(bench.graph.reached.wait, PATIENCE)
    await bench.calm()
    bench.graph.may_encode.set()
    await bench.answered()
    assert bench.graph.ran_by == [THREAD, LOOP]


async def test_answers_to_the_threads_runs_come_in_the_order_of_the_requests(start):
    bench = start()
    order = []
    for number in range(10):
        bench.scheduler.submit([f"{number}"], lambda _, number=number: order.append(number))
    await until(lambda: bench.graph.runs)
    bench.refuse()
    await until(lambda: len(order) == 10)
    assert order == [*range(10)]
    assert {*bench.graph.ran_by} == {LOOP, THREAD}


@pytest.mark.parametrize("again", [False, True], ids=["at work", "at rest"])
async def test_closing_ends_the_thread(start, clock, again):
    bench = start()
    bench.refuse()
    await bench.ask("a")
    if again:
        await bench.calm()
    assert len(threads()) == 1
    await bench.scheduler.close()
    assert (threads(), bench.scheduler.alive) == ([], False)
    with pytest.raises(NotReadyError):
        bench.submit("b")


async def test_closing_fails_what_waits_for_the_thread(start):
    bench = start()
    bench.graph.may_run.clear()
    bench.refuse()
    running, waiting = bench.submit("a"), bench.submit("b", "c")
    assert await asyncio.to_thread(bench.graph.reached.wait, PATIENCE)
    closing = asyncio.create_task(bench.scheduler.close())
    await until(lambda: running and waiting)
    bench.graph.may_run.set()
    await closing
    assert [type(outcome) for outcome in running + waiting] == [NotReadyError] * 2
    assert threads() == []


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has no niceness of its own")
@pytest.mark.parametrize("own", [os.getpriority(os.PRIO_PROCESS, 0), 12, 19])
async def test_the_thread_has_a_lower_priority_than_the_event_loop(clock, own):
    async def serve():
        bench = Bench(clock)
        bench.refuse()
        await bench.ask("a")
        await bench.close()
        return bench.graph, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def with_niceness():
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), own)
        return asyncio.run(serve())

    graph, left = await asyncio.to_thread(with_niceness)
    assert (graph.ran_by, graph.niceness, left) == ([THREAD], [min(own + 10, 19)], own)
