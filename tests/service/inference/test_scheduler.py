"""Each request is answered whole or not at all, in as few runs as possible, and one's fault affects no other."""

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
from service.errors import DeadlineError, InferenceFailedError, NotReadyError
from service.inference.batching import ALONE, WINDOW, Limits
from service.inference.cost_model import Cost
from tests.support.scheduling import MUCH, WIDE, Bench, Graph, Known, said, until
from tests.support.waiting import PATIENCE


@pytest.fixture
def impatient():
    """Let threads interrupt each other as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


on_both = pytest.mark.parametrize("workers", [0, 1])


@on_both
async def test_all_waiting_texts_are_answered_in_one_run(start, workers):
    bench = start(workers=workers)
    assert await bench.together(["a"], ["bb", "ccc"], ["d"]) == [["a"], ["bb", "ccc"], ["d"]]
    assert bench.graph.runs == [["a", "bb", "ccc", "d"]]


@on_both
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
async def test_a_run_takes_no_more_than_the_limits(start, workers, limits, sizes):
    bench = start(workers=workers, limits=limits)
    await bench.together(["ab"] * 7)
    assert [len(run) for run in bench.graph.runs] == sizes


async def test_a_free_thread_does_not_wait_for_more_texts(start):
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
async def test_answers_are_in_the_order_of_the_texts_whatever_shared_a_run(start, workers, limits, slack):
    bench = start(workers=workers, limits=limits, cost=Known(slack=slack))
    bench.graph.gate.set()
    generator = random.Random(0)
    asked = [[generator.choice("xyz") * generator.randint(1, 17) for _ in range(10)] for _ in range(20)]
    requests = [bench.ask(*texts) for texts in asked]
    assert [said(await request) for request in requests] == asked
    assert sorted(itertools.chain(*bench.graph.runs)) == sorted(itertools.chain(*asked))
    assert all(len(run) <= limits.rows for run in bench.graph.runs)


async def test_the_results_of_a_run_reach_the_event_loop_in_one_call(start, monkeypatch):
    calls = []
    loop = asyncio.get_running_loop()
    call = loop.call_soon_threadsafe

    def count(*args, **kwargs):
        if threading.current_thread().name.startswith("inference"):
            calls.append(args)
        return call(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    bench = start()
    await bench.together(*[["a", "b", "c"]] * 10)
    assert len(bench.graph.runs) == 1
    assert len(calls) == 2, "one for the run that kept the thread busy"


async def test_the_event_loop_reads_requests_between_two_runs(start):
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


@on_both
@pytest.mark.parametrize("slack", [0.0, 5.0])
async def test_no_text_waits_for_more_runs_than_there_were_texts_before_it(start, workers, slack):
    bench = start(workers=workers, limits=Limits(64, rows=8), cost=Known(slack=slack))
    generator = random.Random(0)
    texts = [chr(200 + place) * generator.randint(1, 32) for place in range(3 * WINDOW)]
    await bench.together(texts)
    number = {text: index for index, run in enumerate(bench.graph.runs) for text in run}
    assert all(number[text] <= place for place, text in enumerate(texts))


async def test_a_thread_puts_no_text_back_before_an_older_one(start):
    both_taken, put_back, both_run = (threading.Event() for _ in range(3))

    class Uneven(Graph):
        """The thread with the newer texts tokenises until the older ones were put back."""

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


@on_both
@pytest.mark.parametrize(
    "broken",
    [("poison",), ("poison 1", "poison 2", "poison 3"), ("unreadable",), ("poison", "unreadable", "poison too")],
)
async def test_a_text_that_breaks_a_run_fails_alone(start, workers, broken):
    bench = start(workers=workers)
    texts = random.Random(0).sample([*(f"text {number}" for number in range(16)), *broken], 16 + len(broken))
    for text, outcome in zip(texts, await bench.together(*([text] for text in texts)), strict=True):
        if text in broken:
            assert isinstance(outcome, InferenceFailedError)
            assert "text 1 of 1" in str(outcome)
            assert isinstance(outcome.__cause__, ValueError)
        else:
            assert outcome == [text]
    assert len(bench.graph.runs[0]) >= 16, "they shared a run"
    if broken == ("poison",):
        assert len(bench.graph.runs) <= 1 + 2 * 5, "found by halves"
    assert bench.scheduler.alive


async def test_a_text_that_fails_is_named_and_fails_its_request_whole(start):
    failed, answered = await start().together(["b", "poison", "c"], ["d"])
    assert isinstance(failed, InferenceFailedError)
    assert "text 2 of 3" in str(failed)
    assert answered == ["d"]


@on_both
async def test_nan_is_never_an_answer(start, tiny_bundle, workers):
    classifier = Classifier.load(tiny_bundle)
    bench = start(classifier, workers=workers, manifest=tiny_bundle.manifest)
    texts = ["invoice", "my invoice is late", "courier", "login", "poison", "crash"]
    requests = [bench.ask(text) for text in texts]
    answers = await asyncio.gather(*requests, return_exceptions=True)
    for text, answer in zip(texts, answers, strict=True):
        if text == "poison":
            assert isinstance(answer, InferenceFailedError)
            continue
        assert isinstance(answer, list)
        (prediction,) = answer
        np.testing.assert_allclose(prediction.probabilities, classifier.classify(text).probabilities, atol=1e-6)


async def test_if_a_thread_dies_waiting_and_new_requests_fail(start):
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


async def test_a_scheduler_with_a_run_that_never_ends_is_not_alive(start, clock):
    bench = start(workers=2)
    held = await bench.hold()
    clock.now += 59
    assert bench.scheduler.alive
    clock.now += 2
    assert not bench.scheduler.alive
    bench.graph.gate.set()
    await held
    assert bench.scheduler.alive


@on_both
async def test_closing_fails_what_is_open_and_ends_the_threads(start, workers):
    bench = start(workers=workers, limits=ALONE)
    held = [await bench.hold()] if workers else []
    told, withdraw = bench.submit("a", "b")
    closing = asyncio.create_task(bench.scheduler.close())
    await until(lambda: told)
    bench.graph.gate.set()
    await closing
    withdraw()
    outcomes = [*told, *await asyncio.gather(*held, return_exceptions=True)]
    assert [type(outcome) for outcome in outcomes] == [NotReadyError] * (1 + workers)
    assert bench.graph.runs == [["held"] if workers else ["a"]]
    assert not bench.scheduler.alive
    assert not any(thread.name.startswith("inference") for thread in threading.enumerate())
    with pytest.raises(NotReadyError):
        await bench.classify("c")


async def test_a_scheduler_that_did_not_start_is_not_alive():
    assert not Bench().scheduler.alive


async def test_stages_are_recorded_with_their_times(start):
    bench = start()
    bench.graph.gate.set()
    stages = []
    began = time.monotonic()
    await bench.classify("a", record_stage=lambda *stage: stages.append(stage))
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


@on_both
async def test_done_is_called_once_and_later(start, workers):
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


@on_both
async def test_waiting_texts_that_are_withdrawn_are_not_run(start, workers):
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


async def test_a_request_that_is_withdrawn_during_its_run_disturbs_no_other(start):
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


async def test_a_partly_answered_request_that_is_withdrawn_leaves_no_text_waiting(start):
    bench = start(workers=0, limits=ALONE)
    told, withdraw = bench.submit("a", "b", "c")
    await until(lambda: bench.graph.runs)
    withdraw()
    assert bench.gauge("queue_depth") == 0
    assert said(await bench.ask("d")) == ["d"]
    assert (told, bench.graph.runs) == ([], [["a"], ["d"]])


@on_both
async def test_done_is_called_with_errors_too(start, clock, workers):
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


@on_both
async def test_counting_runs_and_learning_from_them_is_deferred(start, workers, monkeypatch):
    monkeypatch.setattr("service.telemetry.deferred._SECONDS", 2 * PATIENCE)
    bench = start(workers=workers)
    bench.graph.gate.set()
    for text in "abc":
        await bench.classify(text)
    assert bench.cost.runs == 0
    assert bench.gauge("batch_texts_count") == 3, "reading the metrics brings them up to date"
    assert bench.cost.runs == 3


PACKED = Limits(20, packed=True)


@on_both
async def test_packed_texts_of_any_lengths_share_runs_in_the_order_of_their_arrival(start, workers):
    bench = start(workers=workers, limits=PACKED)
    texts = ["a" * 12, "b", "c" * 6, "d" * 2, "e" * 30, "f", "g" * 19, "h"]
    assert await bench.together(*([text] for text in texts)) == [[text] for text in texts]
    runs = bench.graph.runs
    assert list(itertools.chain(*runs)) == texts
    assert all(len(run) == 1 or sum(map(len, run)) <= 20 for run in runs)
    assert max(map(len, runs)) > 1
    paid = [PACKED.paid([SimpleNamespace(tokens=len(text)) for text in run]) for run in [*runs, *[["held"]] * workers]]
    assert bench.gauge("batch_tokens_sum") == sum(paid)
    assert bench.load == (0, 0)


@pytest.mark.parametrize(
    ("tokens", "slack", "requests", "runs"),
    [
        (100, 0.1, [["a" * 2, "b" * 30, "c" * 2, "d" * 2]], [["a" * 2, "c" * 2, "d" * 2], ["b" * 30]]),
        # Each is estimated at four tokens, and has eight.
        (20, MUCH, [[letter * 8] for letter in "abcde"], [["a" * 8, "b" * 8], ["c" * 8, "d" * 8], ["e" * 8]]),
        (
            1000,
            0.0,
            [["ab"], ["cd"], ["ef"], ["gh", "ij", "kl"], ["mn"]],
            [["ab", "cd", "ef", "gh", "ij", "kl"], ["mn"]],
        ),
        (1000, 100.0, [[letter] for letter in "abcde"], [["a", "b", "c", "d", "e"]]),
    ],
    ids=["by length where that is cheaper", "no more than fits", "half of the requests", "all where a run costs more"],
)
async def test_packed_texts_share_runs(start, tokens, slack, requests, runs):
    bench = start(workers=0, limits=Limits(tokens, packed=True), cost=Known(slack=slack))
    assert await bench.together(*requests) == requests
    assert sorted(map(sorted, bench.graph.runs)) == runs
    assert bench.gauge("batch_texts_count") == len(runs)
    assert bench.gauge("batch_texts_sum") == sum(map(len, requests))


async def test_a_run_that_pads_counts_its_padding(start):
    bench = start(workers=0, limits=Limits(100))
    await bench.classify("a" * 3, "b" * 9)
    assert bench.gauge("batch_tokens_sum") == 18
