"""An admitted request is expected to be answered in time; others are refused before any work."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from service.errors import DeadlineError, NotReadyError, OverloadedError
from service.inference.admission import Admission
from service.inference.batching import ALONE, Limits
from service.inference.cost_model import Cost
from service.inference.stage_runner import StageRunner
from tests.support.scheduling import Graph, Known, said

NOW = 1000.0


def admission_of(busy_since: float | None) -> Admission:
    """Admission to one stage whose runs take a second, and to one thread."""
    runner = StageRunner(Graph(), limits=Limits(100), max_tokens=32, cost=Known(run=1.0))
    return Admission([(runner, 1)], 10, [busy_since])


@pytest.mark.parametrize(
    ("busy_since", "loop_busy_since"), [(None, NOW - 1.0), (NOW, None)], ids=["on the event loop", "in a thread"]
)
def test_the_current_run_is_part_of_the_wait(busy_since, loop_busy_since):
    admission = admission_of(busy_since)
    admission.loop_busy_since = loop_busy_since
    assert admission.refusal(1, 5, NOW + 1.5, NOW) is not None
    assert admission.refusal(1, 5, NOW + 2.5, NOW) is None


def test_without_a_current_run_the_wait_is_that_of_its_own():
    assert admission_of(None).refusal(1, 5, NOW + 1.5, NOW) is None


async def test_a_full_queue_refuses_a_whole_request_and_admits_what_fits(start):
    bench = start(queue_limit=4, limits=ALONE, cost=Known(run=2.0))
    running = await bench.hold()
    waiting = bench.ask("b", "c", "d")
    await asyncio.sleep(0)
    await bench.refused("e", "f")
    assert bench.load == (3, 4)
    last = bench.ask("g")
    await asyncio.sleep(0)
    # Five runs of two seconds, and the one that has begun.
    assert await bench.refused("h", message="4 texts are waiting and 1 more exceed the limit of 4") == 12
    bench.graph.gate.set()
    assert [said(await task) for task in (running, waiting, last)] == [["held"], ["b", "c", "d"], ["g"]]
    assert sorted(bench.graph.encoded) == ["b", "c", "d", "g", "held"]
    assert bench.load == (0, 0)


async def test_a_request_that_cannot_be_answered_in_time_is_refused_before_any_work(start, clock):
    bench = start(cost=Known(run=8.0, token=1.0))
    message = "may take 10000 ms, more than the 4000 ms that are left"
    assert await bench.refused("a", deadline=clock.now + 4, message=message) == 6
    assert (bench.graph.encoded, bench.graph.runs, bench.load) == ([], [], (0, 0))
    bench.graph.gate.set()
    for deadline in (None, clock.now + 10):
        assert said(await bench.classify("a", deadline=deadline)) == ["a"]


async def test_waiting_texts_count_towards_the_predicted_wait(start, clock):
    bench = start(limits=ALONE, cost=Known(run=2.0))
    requests = [await bench.hold(), bench.ask("b", "c")]
    await asyncio.sleep(0)
    # The run that has begun, two that wait, and its own.
    await bench.refused("d", deadline=clock.now + 7.9)
    requests.append(bench.ask("e", deadline=clock.now + 8))
    await asyncio.sleep(0)
    bench.graph.gate.set()
    assert [said(await request) for request in requests] == [["held"], ["b", "c"], ["e"]]


async def test_the_predicted_wait_is_shared_by_all_threads(start, clock):
    bench = start(workers=2, limits=ALONE, cost=Known(run=2.0))
    await bench.refused(*"abcd", deadline=clock.now + 3.9)
    bench.graph.gate.set()
    await bench.classify(*"abcd", deadline=clock.now + 4)


async def test_texts_that_were_put_back_count_towards_the_wait_and_withdrawn_ones_do_not(start, clock):
    bench = start(workers=0, limits=Limits(1), cost=Known(token=1.0))
    request = bench.ask(*["12345678"] * 4)
    while not bench.graph.runs:
        await asyncio.sleep(0)
    # Three texts of eight tokens, and its own, estimated at two.
    await bench.refused("a", deadline=clock.now + 25.9)
    admitted = bench.ask("a", deadline=clock.now + 26)
    await asyncio.sleep(0)
    request.cancel()
    await asyncio.wait([request])
    assert said(await admitted) == ["a"]
    assert said(await bench.classify("b", deadline=clock.now + 2)) == ["b"]


class Slow(Graph):
    """Takes `seconds` of the clock for each run."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.gate.set()
        self.clock, self.seconds = clock, seconds

    def run(self, rows):
        self.clock.now += self.seconds
        return super().run(rows)


@pytest.mark.parametrize("workers", [0, 1])
async def test_runs_teach_how_long_the_next_will_take(start, clock, workers):
    bench = start(Slow(clock, 2), workers=workers, cost=Cost())
    await bench.classify("a text", deadline=clock.now + 1)
    bench.metrics.deferred.flush()
    await bench.refused("a text", deadline=clock.now + 1)
    await bench.classify("a text", deadline=clock.now + 3)
    assert bench.cost.seconds(6, 1) == pytest.approx(2)


async def test_a_predicted_wait_includes_four_times_the_spread_of_runs(start, clock):
    class Straying(Known):
        spread = 0.25

    bench = start(cost=Straying(run=2.0))
    await bench.refused("a text", deadline=clock.now + 3.9, message="may take 4000 ms")
    bench.submit("a text", deadline=clock.now + 4.1)
    assert bench.gauge("inference_inflight") == 1


async def test_a_refusal_is_raised_and_done_is_not_called(start, clock):
    bench = start(queue_limit=2, cost=Known(run=1.0))
    told = []
    for texts, options in [(("a", "b", "c"), {}), (("a",), {"deadline": clock.now + 0.5})]:
        with pytest.raises(OverloadedError):
            bench.scheduler.submit(texts, told.append, **options)
    await bench.scheduler.close()
    with pytest.raises(NotReadyError):
        bench.scheduler.submit(["a"], told.append)
    assert (told, bench.load) == ([], (0, 0))


async def test_a_request_can_be_refused_before_its_texts_are_known(start):
    step = threading.Semaphore(0)
    graph = Graph()
    gate: Any = SimpleNamespace(wait=lambda seconds: step.acquire(timeout=seconds), set=lambda: step.release(9))
    graph.gate = gate
    bench = start(graph, limits=ALONE, cost=Known(run=1.0))
    requests = [await bench.hold()]
    assert bench.scheduler.refusal(1.5) is None, "nothing waits"
    requests += [bench.ask("a"), bench.ask("b")]
    await asyncio.sleep(0)
    refusals = [bench.scheduler.refusal(1.5)]
    assert bench.scheduler.refusal(60) is bench.scheduler.refusal() is None
    _, withdraw = bench.submit("c")
    refusals.append(bench.scheduler.refusal(1.5))
    withdraw()
    refusals.append(bench.scheduler.refusal(1.5))
    step.release()
    await bench.begun()
    refusals.append(bench.scheduler.refusal(1.5))
    # Runs of a second each: of what waits, its own, and the current one.
    assert [message.split()[4] for message, _ in refusals] == ["4000", "5000", "4000", "3000"]
    assert all(message.endswith(f"try again in {seconds} s") for message, seconds in refusals)
    graph.gate.set()
    await asyncio.gather(*requests)
    assert bench.scheduler.refusal(1.5) is None


@pytest.mark.parametrize(("run", "waited"), [(0.0, 5.5), (1.0, 4.5)], ids=["passed", "would pass during the run"])
async def test_a_text_that_would_be_late_is_not_run(start, clock, run, waited):
    bench = start(limits=ALONE, cost=Known(run=run))
    held = await bench.hold()
    late = bench.ask("late", "later", deadline=clock.now + 5)
    others = [bench.ask("patient"), bench.ask("in time", deadline=clock.now + 6)]
    await asyncio.sleep(0)
    clock.now += waited
    bench.graph.gate.set()
    with pytest.raises(DeadlineError):
        await late
    assert [said(await request) for request in (held, *others)] == [["held"], ["patient"], ["in time"]]
    assert bench.graph.runs == [["held"], ["patient"], ["in time"]]
    assert bench.graph.encoded == ["held", "patient", "in time"]


async def test_on_the_event_loop_too_a_deadline_may_pass_while_waiting(start, clock):
    bench = start(Slow(clock, 3), workers=0, limits=ALONE)
    late, patient = bench.ask("a", "b", "late", deadline=clock.now + 5), bench.ask("c")
    with pytest.raises(DeadlineError):
        await late
    assert said(await patient) == ["c"]
    assert bench.graph.runs == [["a"], ["b"], ["c"]]
