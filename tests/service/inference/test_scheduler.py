"""Each request is answered whole or not at all, in as few runs as possible, and one's fault affects no other."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from export.bundle.classifier import Classifier
from service.errors import DeadlineError, InferenceFailedError, NotReadyError, OverloadedError
from service.inference.batching import ALONE, WINDOW, Limits
from service.inference.cost_model import Cost
from tests.support.scheduling import MUCH, PATIENCE, WIDE, Bench, Graph, Known, said, until


@pytest.fixture
def impatient():
    """Let threads interrupt each other as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


async def test_all_that_waits_is_answered_in_one_run(start):
    bench = start()
    held = await bench.hold()
    requests = [bench.ask("a"), bench.ask("bb", "ccc"), bench.ask("d")]
    await asyncio.sleep(0)
    bench.graph.gate.set()
    assert [said(await request) for request in (held, *requests)] == [["held"], ["a"], ["bb", "ccc"], ["d"]]
    assert bench.graph.runs == [["held"], ["a", "bb", "ccc", "d"]]


async def test_on_the_event_loop_all_that_has_arrived_is_answered_in_one_run(start):
    bench = start(workers=0)
    requests = [bench.ask("a"), bench.ask("bb", "ccc"), bench.ask("d")]
    assert [said(answer) for answer in await asyncio.gather(*requests)] == [["a"], ["bb", "ccc"], ["d"]]
    assert bench.graph.runs == [["a", "bb", "ccc", "d"]]


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        (Limits(1000, rows=3), [3, 3, 1]),
        (Limits(8), [4, 3]),
        (Limits(9), [4, 3]),
        (Limits(1), [1] * 7),
        (ALONE, [1] * 7),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
async def test_a_run_takes_no_more_than_the_limits(start, workers, limits, sizes):
    bench = start(workers=workers, limits=limits)
    held = await bench.hold() if workers else None
    request = bench.ask(*["ab"] * 7)
    await asyncio.sleep(0)
    bench.graph.gate.set()
    assert len(await request) == 7
    assert [len(run) for run in bench.graph.runs[1 if held else 0 :]] == sizes


async def test_a_free_thread_waits_for_no_more_to_come(start):
    bench = start()
    first = bench.ask("a")
    await bench.begun()
    assert bench.graph.runs == [["a"]]
    bench.graph.gate.set()
    await first


async def test_several_threads_run_at_once(start):
    bench = start(workers=2)
    requests = []
    for text in ("a", "b"):
        requests.append(bench.ask(text))
        await bench.begun()
    bench.graph.gate.set()
    assert [said(await request) for request in requests] == [["a"], ["b"]]


@pytest.mark.parametrize("limits", [ALONE, Limits(20), Limits(1000, rows=4), WIDE])
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("slack", [0.0, MUCH])
async def test_answers_come_in_the_order_of_the_texts_whatever_was_run_with_what(start, workers, limits, slack):
    bench = start(workers=workers, limits=limits, cost=Known(slack=slack))
    bench.graph.gate.set()
    generator = random.Random(0)
    asked = [[generator.choice("xyz") * generator.randint(1, 17) for _ in range(10)] for _ in range(20)]
    requests = [bench.ask(*texts) for texts in asked]
    assert [said(await request) for request in requests] == asked
    assert sorted(itertools.chain(*bench.graph.runs)) == sorted(itertools.chain(*asked))
    assert all(len(run) <= limits.rows for run in bench.graph.runs)


async def test_a_run_tells_the_event_loop_once(start, monkeypatch):
    calls = []
    loop = asyncio.get_running_loop()
    call = loop.call_soon_threadsafe

    def count(*args, **kwargs):
        if threading.current_thread().name.startswith("inference"):
            calls.append(args)
        return call(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    bench = start()
    held = await bench.hold()
    requests = [bench.ask("a", "b", "c") for _ in range(10)]
    await asyncio.sleep(0)
    bench.graph.gate.set()
    await asyncio.gather(held, *requests)
    assert len(bench.graph.runs) == len(calls) == 2


async def test_the_event_loop_reads_what_came_between_two_runs(start):
    events = []

    class Telling(Graph):
        def run(self, rows):
            events.append("run")
            return super().run(rows)

    graph = Telling()
    graph.gate.set()
    bench = start(graph, workers=0, limits=ALONE)
    request = bench.ask("a", "b", "c", "d")
    while not request.done():
        events.append("turn")
        await asyncio.sleep(0)
    assert events.count("run") == 4
    assert ("run", "run") not in itertools.pairwise(events)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("slack", [0.0, 5.0])
async def test_no_text_waits_for_more_runs_than_there_were_texts_before_it(start, workers, slack):
    bench = start(workers=workers, limits=Limits(64, rows=8), cost=Known(slack=slack))
    generator = random.Random(0)
    texts = [chr(200 + place) * generator.randint(1, 32) for place in range(3 * WINDOW)]
    held = await bench.hold() if workers else None
    request = bench.ask(*texts)
    await asyncio.sleep(0)
    bench.graph.gate.set()
    await request
    runs = bench.graph.runs[1 if held else 0 :]
    number = {text: index for index, run in enumerate(runs) for text in run}
    assert all(number[text] <= place for place, text in enumerate(texts))


async def test_a_thread_puts_nothing_back_before_what_is_older(start):
    both_taken, put_back, both_run = (threading.Event() for _ in range(3))

    class Uneven(Graph):
        """Who has the newer texts tokenises until the older ones have been put back."""

        def encode(self, text):
            if text == "old 0":
                assert both_taken.wait(PATIENCE)
            if text == "new 0":
                both_taken.set()
                assert put_back.wait(PATIENCE)
            return super().encode(text)

        def run(self, rows):
            answers = super().run(rows)
            if said(answers) != ["held"]:
                put_back.set()
                assert both_run.wait(PATIENCE)
            return answers

    bench = start(Uneven(), workers=2, limits=Limits(1))
    requests = [await bench.hold(), await bench.hold()]
    requests += [bench.ask(*(f"{age} {place}" for place in range(WINDOW))) for age in ("old", "new")]
    await asyncio.sleep(0)
    bench.graph.gate.set()
    await bench.begun()
    await bench.begun()
    assert bench.gauge("queue_depth") == 2 * WINDOW - 2
    both_run.set()
    await asyncio.gather(*requests)
    assert bench.gauge("queue_depth") == 0
    ran = [text for (text,) in bench.graph.runs]
    assert ran[2:4] == ["old 0", "new 0"]
    assert ran.index("old 1") < ran.index("new 1")


async def test_a_full_queue_refuses_a_whole_request_and_admits_what_fits(start):
    bench = start(queue_limit=4)
    running = await bench.hold()
    waiting = bench.ask("b", "c", "d")
    await asyncio.sleep(0)
    assert bench.load == (3, 4)
    with pytest.raises(OverloadedError):
        await bench.classify("e", "f")
    assert bench.load == (3, 4)
    last = bench.ask("g")
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="4 texts are waiting and 1 more exceed the limit of 4"):
        await bench.classify("h")
    bench.graph.gate.set()
    assert [said(await task) for task in (running, waiting, last)] == [["held"], ["b", "c", "d"], ["g"]]
    assert sorted(bench.graph.encoded) == ["b", "c", "d", "g", "held"]
    assert bench.load == (0, 0)


async def test_a_full_queue_says_when_it_will_be_empty(start):
    bench = start(queue_limit=4, limits=ALONE, cost=Known(run=2.0))
    requests = [await bench.hold(), bench.ask("b", "c", "d", "e")]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as refused:
        await bench.classify("f")
    # Five runs of two seconds, and the one that was begun.
    assert refused.value.headers["retry-after"] == "12"
    bench.graph.gate.set()
    await asyncio.gather(*requests)


async def test_what_could_not_be_answered_in_time_is_refused_before_any_work(start, clock):
    bench = start(cost=Known(run=8.0, token=1.0))
    with pytest.raises(OverloadedError, match="may take 10000 ms, more than the 4000 ms that are left") as refused:
        await bench.classify("a", deadline=clock.now + 4)
    assert refused.value.headers["retry-after"] == "6"
    assert (bench.graph.encoded, bench.graph.runs) == ([], [])
    assert bench.load == (0, 0)
    for deadline in (None, clock.now + 10):
        bench.graph.gate.set()
        assert said(await bench.classify("a", deadline=deadline)) == ["a"]


async def test_what_waits_already_counts_towards_the_wait(start, clock):
    bench = start(limits=ALONE, cost=Known(run=2.0))
    requests = [await bench.hold(), bench.ask("b", "c")]
    await asyncio.sleep(0)
    # The run that is begun, two that wait, and its own.
    with pytest.raises(OverloadedError):
        await bench.classify("d", deadline=clock.now + 7.9)
    admitted = bench.ask("e", deadline=clock.now + 8)
    await asyncio.sleep(0)
    bench.graph.gate.set()
    await asyncio.gather(*requests)
    assert said(await admitted) == ["e"]


async def test_the_wait_is_shared_by_all_threads(start, clock):
    bench = start(workers=2, limits=ALONE, cost=Known(run=2.0))
    with pytest.raises(OverloadedError):
        await bench.classify("a", "b", "c", "d", deadline=clock.now + 3.9)
    bench.graph.gate.set()
    await bench.classify("a", "b", "c", "d", deadline=clock.now + 4)


async def test_the_wait_is_for_what_was_put_back_too_and_not_for_what_was_withdrawn(start, clock):
    bench = start(workers=0, limits=Limits(1), cost=Known(token=1.0))
    request = bench.ask(*["12345678"] * 4)
    while not bench.graph.runs:
        await asyncio.sleep(0)
    # Three texts of eight tokens, and two that are guessed of its own.
    with pytest.raises(OverloadedError):
        await bench.classify("a", deadline=clock.now + 25.9)
    admitted = bench.ask("a", deadline=clock.now + 26)
    await asyncio.sleep(0)
    request.cancel()
    await asyncio.wait([request])
    assert said(await admitted) == ["a"]
    assert said(await bench.classify("b", deadline=clock.now + 2)) == ["b"]


@pytest.mark.parametrize("workers", [0, 1])
async def test_runs_teach_how_long_the_next_will_take(start, clock, workers):
    class Slow(Graph):
        def run(self, rows):
            clock.now += 2
            return super().run(rows)

    graph = Slow()
    graph.gate.set()
    bench = start(graph, workers=workers, cost=Cost())
    await bench.classify("a text", deadline=clock.now + 1)
    bench.metrics.deferred.flush()
    with pytest.raises(OverloadedError):
        await bench.classify("a text", deadline=clock.now + 1)
    await bench.classify("a text", deadline=clock.now + 3)
    assert bench.cost.seconds(6, 1) == pytest.approx(2)


async def test_a_wait_is_foretold_with_four_times_the_spread_of_runs(start, clock):
    class Straying(Cost):
        @property
        def spread(self):
            return 0.25

        def seconds(self, tokens, runs):
            return 2.0

    bench = start(cost=Straying())
    with pytest.raises(OverloadedError, match="may take 4000 ms"):
        await bench.classify("a text", deadline=clock.now + 3.9)
    bench.ask("a text", deadline=clock.now + 4.1)
    await asyncio.sleep(0)
    assert bench.gauge("inference_inflight") == 1
    bench.graph.gate.set()


async def test_a_deadline_that_passes_while_waiting_is_an_error_and_no_run(start, clock):
    bench = start()
    held = await bench.hold()
    late = bench.ask("late", "later", deadline=clock.now + 5)
    patient = bench.ask("patient")
    in_time = bench.ask("in time", deadline=clock.now + 6)
    await asyncio.sleep(0)
    clock.now += 5.5
    bench.graph.gate.set()
    with pytest.raises(DeadlineError):
        await late
    assert [said(await request) for request in (held, patient, in_time)] == [["held"], ["patient"], ["in time"]]
    assert bench.graph.runs == [["held"], ["patient", "in time"]]
    assert bench.graph.encoded == ["held", "patient", "in time"]


async def test_a_text_whose_run_would_end_after_its_deadline_is_not_run(start, clock):
    bench = start(limits=ALONE, cost=Known(run=1.0))
    held = await bench.hold()
    late, in_time = bench.ask("late", deadline=clock.now + 5), bench.ask("in time", deadline=clock.now + 6)
    await asyncio.sleep(0)
    clock.now += 4.5
    bench.graph.gate.set()
    with pytest.raises(DeadlineError):
        await late
    assert [said(await request) for request in (held, in_time)] == [["held"], ["in time"]]


async def test_a_request_can_be_refused_before_anything_is_known_of_it(start, clock):
    bench = start(cost=Known(token=1.0))
    held = await bench.hold()
    assert bench.scheduler.refusal(2) is None
    waiting = bench.ask("12345678")
    await asyncio.sleep(0)
    message, retry_after = bench.scheduler.refusal(2)
    assert message.endswith(f"try again in {retry_after} s")
    assert bench.scheduler.refusal(60) is None
    assert bench.scheduler.refusal() is None
    bench.graph.gate.set()
    await asyncio.gather(held, waiting)
    assert len(bench.graph.runs) == 2


async def test_a_refusal_is_the_same_until_the_queue_is_another(start):
    step = threading.Semaphore(0)
    graph = Graph()
    graph.gate = SimpleNamespace(wait=lambda seconds: step.acquire(timeout=seconds), set=lambda: step.release(9))
    bench = start(graph, limits=ALONE, cost=Known(run=1.0))
    requests = [await bench.hold(), bench.ask("a"), bench.ask("b")]
    await asyncio.sleep(0)
    told = [bench.scheduler.refusal(1.5)]
    assert bench.scheduler.refusal(1.5) is told[0]
    assert bench.scheduler.refusal(60) is None
    _, withdraw = bench.submit("c")
    told.append(bench.scheduler.refusal(1.5))
    withdraw()
    told.append(bench.scheduler.refusal(1.5))
    step.release()
    await bench.begun()
    told.append(bench.scheduler.refusal(1.5))
    # Runs of a second each: what waits, its own, and the one that is under way.
    assert [message.split()[4] for message, _ in told] == ["4000", "5000", "4000", "3000"]
    graph.gate.set()
    await asyncio.gather(*requests)
    assert bench.scheduler.refusal(1.5) is None


async def test_on_the_event_loop_too_a_deadline_may_pass_while_waiting(start, clock):
    class Slow(Graph):
        def run(self, rows):
            clock.now += 3
            return super().run(rows)

    graph = Slow()
    graph.gate.set()
    bench = start(graph, workers=0, limits=ALONE)
    late, patient = bench.ask("a", "b", "late", deadline=clock.now + 5), bench.ask("c")
    with pytest.raises(DeadlineError):
        await late
    assert said(await patient) == ["c"]
    assert graph.runs == [["a"], ["b"], ["c"]]


async def test_a_cancelled_request_frees_its_places_and_breaks_no_other(start):
    bench = start(limits=ALONE)
    first, second, third = await bench.hold(), bench.ask("b", "c"), bench.ask("d")
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert second.cancelled()
    assert bench.load == (1, 1)
    bench.graph.gate.set()
    assert said(await third) == ["d"]
    assert bench.graph.runs == [["held"], ["d"]]
    assert bench.load == (0, 0)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "broken",
    [("poison",), ("poison 1", "poison 2", "poison 3"), ("unreadable",), ("poison", "unreadable", "poison too")],
)
async def test_what_breaks_a_run_fails_alone(start, workers, broken):
    bench = start(workers=workers)
    held = await bench.hold() if workers else None
    sound = [f"text {number}" for number in range(16)]
    texts = random.Random(0).sample([*sound, *broken], 16 + len(broken))
    requests = {text: bench.ask(text) for text in texts}
    await asyncio.sleep(0)
    bench.graph.gate.set()
    for text in sound:
        assert said(await requests[text]) == [text]
    for text in broken:
        with pytest.raises(InferenceFailedError, match="text 1 of 1") as failure:
            await requests[text]
        assert isinstance(failure.value.__cause__, ValueError)
    runs = bench.graph.runs[1 if held else 0 :]
    assert len(runs[0]) >= 16, "they shared a run"
    if broken == ("poison",):
        assert len(runs) <= 1 + 2 * 5, "found by halves"
    assert bench.scheduler.alive


async def test_a_text_that_fails_is_named_and_fails_its_request_whole(start):
    bench = start()
    held = await bench.hold()
    failing, after = bench.ask("b", "poison", "c"), bench.ask("d")
    await asyncio.sleep(0)
    bench.graph.gate.set()
    with pytest.raises(InferenceFailedError, match="text 2 of 3"):
        await failing
    assert [said(await request) for request in (held, after)] == [["held"], ["d"]]


@pytest.mark.parametrize("workers", [0, 1])
async def test_what_is_not_a_number_is_never_an_answer(start, tiny_bundle, workers):
    classifier = Classifier.load(tiny_bundle)
    bench = start(classifier, workers=workers, manifest=tiny_bundle.manifest)
    texts = ["invoice", "my invoice is late", "courier", "login", "poison", "crash"]
    requests = [bench.ask(text) for text in texts]
    answers = await asyncio.gather(*requests, return_exceptions=True)
    for text, answer in zip(texts, answers, strict=True):
        if text == "poison":
            assert isinstance(answer, InferenceFailedError)
            continue
        (prediction,) = answer
        np.testing.assert_allclose(prediction.probabilities, classifier.classify(text).probabilities, atol=1e-6)


async def test_a_thread_that_dies_fails_whoever_waits_and_whoever_comes(start):
    bench = start(limits=ALONE)
    dying, waiting = bench.ask("die"), bench.ask("a")
    await bench.begun()
    assert bench.scheduler.alive
    bench.graph.gate.set()
    for request in (dying, waiting):
        with pytest.raises(InferenceFailedError, match="restart"):
            await request
    assert not bench.scheduler.alive
    with pytest.raises(NotReadyError):
        await bench.classify("b")


async def test_a_run_that_never_ends_is_no_life(start, clock):
    bench = start(workers=2)
    held = await bench.hold()
    clock.now += 59
    assert bench.scheduler.alive
    clock.now += 2
    assert not bench.scheduler.alive
    bench.graph.gate.set()
    await held
    assert bench.scheduler.alive


async def test_closing_fails_what_is_open_and_ends_the_threads(start):
    bench = start(limits=ALONE)
    running, waiting = await bench.hold(), bench.ask("b")
    await asyncio.sleep(0)
    closing = asyncio.create_task(bench.scheduler.close())
    for request in (running, waiting):
        with pytest.raises(NotReadyError):
            await request
    bench.graph.gate.set()
    await closing
    assert not bench.scheduler.alive
    assert bench.graph.runs == [["held"]]
    assert not any(thread.name.startswith("inference") for thread in threading.enumerate())
    with pytest.raises(NotReadyError):
        await bench.classify("c")


async def test_closing_fails_what_waits_for_the_event_loop(start):
    bench = start(workers=0, limits=ALONE)
    waiting = bench.ask("a", "b")
    await asyncio.sleep(0)
    await bench.scheduler.close()
    with pytest.raises(NotReadyError):
        await waiting
    assert not bench.scheduler.alive


async def test_a_scheduler_that_did_not_start_is_not_alive():
    assert not Bench().scheduler.alive


async def test_stages_are_told_with_their_times(start):
    bench = start()
    bench.graph.gate.set()
    stages = []
    began = time.monotonic()
    await bench.classify("a", staged=lambda *stage: stages.append(stage))
    (queue, queued, begun), (run, begun_too, ended) = stages
    assert (queue, run) == ("queue", "run")
    assert began <= queued <= begun == begun_too <= ended <= time.monotonic()


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("limits", [Limits(12), WIDE])
async def test_many_clients_at_once_are_all_answered(start, impatient, workers, limits):
    bench = start(workers=workers, limits=limits, cost=Cost())
    bench.graph.gate.set()

    async def client(number):
        for count in range(25):
            texts = [f"{number}-{count}-{index}" for index in range(1 + (number + count) % 3)]
            assert said(await bench.classify(*texts)) == texts

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(client(number) for number in range(40)))
    assert bench.load == (0, 0)


@pytest.mark.parametrize("workers", [0, 1, 4])
async def test_clients_that_come_and_go_leave_nothing_behind(start, impatient, workers):
    bench = start(workers=workers, limits=Limits(40), cost=Cost())
    bench.graph.gate.set()
    generator = random.Random(0)

    async def client(number):
        for count in range(25):
            text = f"{number}-{count}"
            request = bench.ask(text, text)
            for _ in range(generator.randint(0, 4)):
                await asyncio.sleep(0)
            if generator.random() < 0.5:
                request.cancel()
            try:
                assert said(await request) == [text, text]
            except asyncio.CancelledError:
                assert request.cancelled()

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(client(number) for number in range(40)))
        while bench.gauge("queue_depth"):
            await asyncio.sleep(0)
    assert bench.gauge("inference_inflight") == 0
    assert said(await bench.classify("at last")) == ["at last"]


@pytest.mark.parametrize("workers", [0, 1])
async def test_whoever_submits_is_told_once_and_later(start, workers):
    bench = start(workers=workers)
    bench.graph.gate.set()
    several = [bench.submit("a", "bb"), bench.submit("c")]
    assert [told for told, _ in several] == [[], []], "nothing is told before `submit` returns"
    await until(lambda: all(told for told, _ in several))
    for _, withdraw in several:
        withdraw()
    assert said(await bench.ask("d")) == ["d"]
    assert [[said(outcome) for outcome in told] for told, _ in several] == [[["a", "bb"]], [["c"]]]
    assert bench.load == (0, 0)


@pytest.mark.parametrize("workers", [0, 1])
async def test_what_is_withdrawn_while_it_waits_is_not_run_and_nobody_is_told(start, workers):
    bench = start(workers=workers, queue_limit=3)
    held = await bench.hold() if workers else None
    told, withdraw = bench.submit("a", "b")
    kept, _ = bench.submit("c")
    assert bench.gauge("queue_depth") == 3
    withdraw()
    withdraw()
    assert bench.gauge("queue_depth") == 1
    assert bench.gauge("inference_inflight") == 1 + workers
    other, _ = bench.submit("d", "e")
    bench.graph.gate.set()
    await until(lambda: kept and other)
    if held:
        await held
    assert told == []
    assert sorted(itertools.chain(*bench.graph.runs)) == ["c", "d", "e", *(["held"] if workers else [])]
    assert bench.load == (0, 0)


async def test_what_is_withdrawn_during_its_run_is_not_told_and_disturbs_no_other(start):
    withdrawn = threading.Event()

    class Waiting(Graph):
        def run(self, rows):
            answers = super().run(rows)
            assert said(answers) == ["held"] or withdrawn.wait(PATIENCE)
            return answers

    bench = start(Waiting())
    held = await bench.hold()
    told, withdraw = bench.submit("a")
    other, _ = bench.submit("b")
    bench.graph.gate.set()
    await held
    await bench.begun()
    withdraw()
    withdrawn.set()
    await until(lambda: other)
    assert said(other[0]) == ["b"]
    assert (told, bench.gauge("inference_inflight")) == ([], 0)
    assert bench.graph.runs == [["held"], ["a", "b"]]


async def test_what_is_withdrawn_after_some_of_its_texts_were_answered_leaves_none_waiting(start):
    bench = start(workers=0, limits=ALONE)
    told, withdraw = bench.submit("a", "b", "c")
    await until(lambda: bench.graph.runs)
    withdraw()
    assert bench.gauge("queue_depth") == 0
    assert said(await bench.ask("d")) == ["d"]
    assert (told, bench.graph.runs) == ([], [["a"], ["d"]])


@pytest.mark.parametrize("workers", [0, 1])
async def test_whoever_submits_is_told_of_errors_too(start, clock, workers):
    bench = start(workers=workers, limits=ALONE)
    held = await bench.hold() if workers else None
    poisoned, _ = bench.submit("a", "poison", "poison too")
    late, _ = bench.submit("late", "later", deadline=clock.now + 1)
    clock.now += 2
    bench.graph.gate.set()
    await until(lambda: poisoned and late)
    assert said(await bench.ask("b")) == ["b"]
    assert [type(outcome) for outcome in poisoned + late] == [InferenceFailedError, DeadlineError]
    assert str(poisoned[0]).startswith("text 2 of 3")
    if held:
        await held


async def test_who_waits_when_it_closes_is_told_once(start):
    bench = start(limits=ALONE)
    running, withdraw = bench.submit("a")
    waiting, _ = bench.submit("b")
    await bench.begun()
    closing = asyncio.create_task(bench.scheduler.close())
    await until(lambda: running and waiting)
    bench.graph.gate.set()
    await closing
    withdraw()
    assert [type(outcome) for outcome in running + waiting] == [NotReadyError, NotReadyError]


async def test_what_is_refused_is_raised_and_not_told(start, clock):
    bench = start(queue_limit=2, cost=Known(run=1.0))
    told = []
    for texts, options in [(("a", "b", "c"), {}), (("a",), {"deadline": clock.now + 0.5})]:
        with pytest.raises(OverloadedError):
            bench.scheduler.submit(texts, told.append, **options)
    await bench.scheduler.close()
    with pytest.raises(NotReadyError):
        bench.scheduler.submit(["a"], told.append)
    assert (told, bench.gauge("queue_depth"), bench.gauge("inference_inflight")) == ([], 0, 0)


@pytest.mark.parametrize("workers", [0, 1])
async def test_runs_are_counted_and_learned_from_several_at_once(start, workers, monkeypatch):
    monkeypatch.setattr("service.telemetry.deferred._SECONDS", 2 * PATIENCE)
    bench = start(workers=workers)
    bench.graph.gate.set()
    for text in "abc":
        await bench.classify(text)
    assert bench.cost.runs == 0
    assert bench.gauge("batch_texts_count") == 3, "and whoever reads the counts has them"
    assert bench.cost.runs == 3


PACKED = Limits(20, packed=True)


@pytest.mark.parametrize("workers", [0, 1])
async def test_packed_texts_of_any_lengths_share_runs_in_the_order_in_which_they_came(start, workers):
    bench = start(workers=workers, limits=PACKED, cost=Known(slack=1e9))
    held = await bench.hold() if workers else None
    texts = ["a" * 12, "b", "c" * 6, "d" * 2, "e" * 30, "f", "g" * 19, "h"]
    requests = [bench.ask(text) for text in texts]
    await asyncio.sleep(0)
    bench.graph.gate.set()
    assert [said(await request) for request in requests] == [[text] for text in texts]
    runs = bench.graph.runs[1:] if held else bench.graph.runs
    assert list(itertools.chain(*runs)) == texts
    assert all(len(run) == 1 or sum(map(len, run)) <= 20 for run in runs)
    assert max(map(len, runs)) > 1
    assert bench.gauge("batch_tokens_sum") == sum(
        PACKED.paid([SimpleNamespace(tokens=len(text)) for text in run]) for run in bench.graph.runs
    )
    assert bench.load == (0, 0)


async def test_packed_texts_that_were_taken_together_run_by_length_where_that_costs_less(start):
    bench = start(workers=0, limits=Limits(100, packed=True), cost=Known(slack=0.1))
    texts = ["a" * 2, "b" * 30, "c" * 2, "d" * 2]
    assert said(await bench.ask(*texts)) == texts
    assert sorted(map(sorted, bench.graph.runs)) == [["a" * 2, "c" * 2, "d" * 2], ["b" * 30]]
    assert bench.gauge("batch_texts_count") == 2
    assert bench.gauge("batch_texts_sum") == len(texts)


async def test_packed_what_is_longer_than_it_was_thought_to_be_waits_for_the_next_run(start):
    bench = start(workers=0, limits=PACKED)
    # Each is thought to have four tokens, and has eight.
    requests = [bench.ask(letter * 8) for letter in "abcde"]
    await asyncio.gather(*requests)
    assert [len(run) for run in bench.graph.runs] == [2, 2, 1]
    assert list(itertools.chain(*bench.graph.runs)) == [letter * 8 for letter in "abcde"]


async def test_packed_half_of_the_requests_that_wait_share_a_run(start):
    bench = start(workers=0, limits=Limits(1000, packed=True), cost=Known(slack=0.0))
    requests = [bench.ask("ab"), bench.ask("cd"), bench.ask("ef"), bench.ask("gh", "ij", "kl"), bench.ask("mn")]
    await asyncio.gather(*requests)
    assert bench.graph.runs == [["ab", "cd", "ef", "gh", "ij", "kl"], ["mn"]]


async def test_packed_all_share_a_run_that_costs_more_than_they_do(start):
    bench = start(workers=0, limits=Limits(1000, packed=True), cost=Known(slack=100.0))
    await asyncio.gather(*[bench.ask(letter) for letter in "abcde"])
    assert bench.graph.runs == [["a", "b", "c", "d", "e"]]


async def test_a_run_that_pads_counts_its_padding(start):
    bench = start(workers=0, limits=Limits(100))
    await bench.ask("a" * 3, "b" * 9)
    assert bench.gauge("batch_tokens_sum") == 18
