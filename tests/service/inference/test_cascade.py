"""The stages of a cascade in service: each text is answered once, by the right stage, and waits for none too long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from service.errors import DeadlineError, InferenceFailedError, OverloadedError
from service.inference.admission import Admission
from service.inference.batching import ALONE, Limits
from service.inference.cost_model import Cost
from service.inference.stage_runner import StageRunner, next_runner
from service.inference.types import Item, Submission
from tests.support.scheduling import WIDE, Bench, Graph, Known, said, until

on_each = pytest.mark.parametrize(
    ("workers", "on_loop"), [(0, 0), (1, 0), (3, 0), (2, 1)], ids=["loop", "thread", "threads", "loop and threads"]
)


def stage(
    place: int,
    graph: Any = None,
    *,
    last: bool = False,
    limits: Limits = WIDE,
    cost: Cost | None = None,
    **options: Any,
) -> StageRunner:
    """A later stage, whose graph is unsure about texts with the letter of its place unless it is the last."""
    if graph is None:
        graph = Graph(None if last else str(place))
        graph.gate.set()
    given: dict[str, Any] = {"keeps": lambda encoded: True, "max_tokens": 32} | options
    cut_off = None if last else 0.5
    return StageRunner(graph, limits=limits, cost=cost or Known(), place=place, cut_off=cut_off, **given)


@pytest.fixture
def cascade(start: Callable[..., Bench]) -> Callable[..., Bench]:
    """`cascade(*later, **options)`: a bench whose first stage is unsure about texts with a `0`; its gate is open."""

    def make(*later: StageRunner, **options: Any) -> Bench:
        graph = options.pop("graph", None) or Graph("0")
        graph.gate.set()
        return start(graph, later=later, **options)

    return make


def places(predictions: Any) -> list[int]:
    return [prediction.stage for prediction in predictions]


@on_each
async def test_each_text_is_answered_by_the_first_stage_that_is_sure(cascade, workers, on_loop):
    bench = cascade(stage(1), stage(2, last=True), workers=workers, on_loop=on_loop)
    texts = ["a", "0b", "01c", "1d", "0", "01"]
    answers = await bench.classify(*texts)
    assert said(answers) == texts
    assert places(answers) == [0, 1, 2, 0, 1, 2]


@on_each
@pytest.mark.parametrize("limits", [ALONE, Limits(20), Limits(1000, rows=4), WIDE])
async def test_many_requests_at_once_are_answered_as_alone(cascade, workers, on_loop, limits):
    later = [stage(1, limits=limits), stage(2, last=True, limits=limits)]
    bench = cascade(*later, workers=workers, on_loop=on_loop, limits=limits)
    generator = random.Random(0)
    asked = [["".join(generator.choices("01xyz", k=generator.randint(1, 9))) for _ in range(8)] for _ in range(20)]
    requests = [bench.ask(*texts) for texts in asked]
    for texts, request in zip(asked, requests, strict=True):
        answers = await request
        assert said(answers) == texts
        assert places(answers) == [2 if {"0", "1"} <= {*text} else int("0" in text) for text in texts]
    assert bench.load == (0, 0)


async def test_texts_of_several_requests_share_the_run_of_a_later_stage(cascade):
    graph = Graph()
    graph.gate.set()
    bench = cascade(stage(1, graph, last=True), workers=0)
    await asyncio.gather(*(bench.classify(text) for text in ("0a", "b", "0c", "0d")))
    assert graph.runs == [["0a", "0c", "0d"]]


async def test_the_embedding_is_that_of_the_first_stage(cascade):
    class Other(Graph):
        def run(self, rows):
            return [answer._replace(embedding=answer.embedding + 1) for answer in super().run(rows)]

    graph = Other()
    graph.gate.set()
    bench = cascade(stage(1, graph, last=True), workers=0)
    (answer,) = await bench.classify("0a")
    assert (answer.stage, said([answer])) == (1, ["0a"])


@pytest.mark.parametrize("same", [True, False])
async def test_a_later_stage_tokenises_only_what_its_tokenizer_makes_other_tokens_of(cascade, same):
    graph = Graph()
    graph.gate.set()
    bench = cascade(stage(1, graph, last=True, keeps=lambda encoded: same and len(encoded.ids) < 4), workers=0)
    await bench.classify("a", "0b", "0long")
    assert bench.graph.encoded == ["a", "0b", "0long"]
    assert graph.encoded == (["0long"] if same else ["0b", "0long"])


@on_each
async def test_only_the_text_that_a_later_stage_fails_on_fails_its_request(cascade, workers, on_loop):
    bench = cascade(stage(1, last=True), workers=workers, on_loop=on_loop)
    requests = [bench.ask("0a"), bench.ask("b", "0poison"), bench.ask("0c", "0d")]
    first, second, third = await asyncio.gather(*requests, return_exceptions=True)
    assert (said(first), said(third)) == (["0a"], ["0c", "0d"])
    assert isinstance(second, InferenceFailedError)
    assert "text 2 of 2" in str(second)
    assert bench.load == (0, 0)


async def test_a_text_that_cannot_be_in_time_at_a_later_stage_is_not_run_there(cascade, clock):
    class Slow(Graph):
        def run(self, rows):
            clock.now += 5.0
            return super().run(rows)

    last = stage(1, last=True, cost=Known(run=3.0))
    bench = cascade(last, graph=Slow("0"), workers=0, cost=Known(run=0.1))
    asked = bench.ask("a", "0b", deadline=clock.now + 6.0)
    with pytest.raises(DeadlineError):
        await asked
    assert (await bench.classify("0c"))[0].stage == 1
    assert bench.load == (0, 0)


@on_each
async def test_a_withdrawn_request_leaves_the_queue_of_every_stage(cascade, workers, on_loop):
    held = Graph()
    bench = cascade(stage(1, held, last=True, limits=ALONE), workers=workers, on_loop=on_loop)
    if not workers:
        held.gate.set()
    told, withdraw = bench.submit("0a", "0b", "0c", "0d", "0e")
    await asyncio.sleep(0)
    if workers:
        assert await asyncio.to_thread(held.begun.acquire, timeout=10)
    withdraw()
    assert bench.load == (0, 0)
    held.gate.set()
    assert said(await bench.classify("0f")) == ["0f"]
    assert told == []


async def test_texts_that_wait_for_any_stage_count_towards_the_limit(cascade):
    held = Graph()
    bench = cascade(stage(1, held, last=True, limits=ALONE), workers=1, on_loop=1, queue_limit=3)
    running = bench.ask("0a")
    assert await asyncio.to_thread(held.begun.acquire, timeout=10)
    waiting = [bench.ask("0b"), bench.ask("0c")]
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.load == (2, 3)
    with pytest.raises(OverloadedError, match="2 texts are waiting and 2 more exceed the limit of 3"):
        await bench.classify("x", "y")
    assert places(await bench.classify("z")) == [0], "there is room for one, and it needs no later stage"
    held.gate.set()
    assert [places(answers) for answers in await asyncio.gather(running, *waiting)] == [[1]] * 3


def runner(place: int, waits_since: float | None, *, limits: Limits = WIDE, run: float = 1.0) -> StageRunner:
    """A stage, and if `waits_since` is given one text of four tokens that waits for it since then."""
    made = stage(place, limits=limits, cost=Known(run=run))
    if waits_since is not None:
        submission = Submission(["text"], lambda _: None, 0.0, waits_since)
        made.queue.add([Item(submission, 0, 4, waits_since)], 4)
    return made


@pytest.mark.parametrize(
    ("since", "options", "chosen"),
    [
        ((None, None, None), {}, None),
        ((0.0, None, None), {}, 0),
        ((None, None, 0.0), {}, 2),
        ((0.0, 0.0, 0.0), {}, 0),
        ((None, 0.0, 0.0), {}, 1),
        ((0.0, 0.0, -0.9), {}, 0),
        ((0.0, 0.0, -1.1), {}, 2),
        ((0.0, -1.1, 0.0), {}, 1),
        ((0.0, 0.0, 0.0), {"limits": Limits(4)}, 2),
        ((0.0, 0.0, 0.0), {"limits": Limits(100, rows=1)}, 2),
        ((-9.0, None, 0.0), {}, 0),
    ],
    ids=[
        "none waits",
        "only the first",
        "only the last: nothing cheaper waits",
        "all: the cheapest",
        "the cheapest of the later ones",
        "the last has waited less than its run takes",
        "the last has waited longer",
        "the second has waited longer",
        "full of tokens",
        "full of texts",
        "a text of the first stage needs no company",
    ],
)
def test_the_cheapest_stage_runs_unless_a_later_one_is_due(clock, since, options, chosen):
    runners = [
        runner(place, None if one is None else clock.now + one, **(options if place == 2 else {}))
        for place, one in enumerate(since)
    ]
    found = next_runner(runners)
    assert (None if found is None else found.place) == chosen


def test_a_text_waits_for_a_stage_since_it_was_passed_on_in_the_order_of_its_request():
    last = stage(1, last=True, cost=Known(run=1.0))
    requests = [Submission(["text"], lambda _: None, 0.0, submitted) for submitted in (1.0, 2.0, 3.0)]
    first, second, third = (Item(request, 0, 4, request.submitted) for request in requests)
    last.receive([second], 9.0)
    last.receive([first, third], 9.5)
    assert [*last.queue.items] == [first, second, third]
    assert last.queue.tokens == 12
    assert [last.due(now) for now in (10.4, 10.6)] == [False, True]


async def test_under_steady_load_no_text_waits_longer_than_the_run_of_its_stage(cascade, clock):
    """The first stage always has work: each of its runs brings another request."""
    waited, bench_of = [], {}

    class Busy(Graph):
        def run(self, rows):
            clock.now += 0.1
            if len(self.runs) < 100:
                bench_of["bench"].submit("a")
            return super().run(rows)

    class Last(Graph):
        def run(self, rows):
            waited.append(clock.now - asked_at)
            return super().run(rows)

    last = Last()
    last.gate.set()
    bench_of["bench"] = bench = cascade(stage(1, last, last=True, cost=Known(run=1.0)), graph=Busy("0"), workers=0)
    asked_at = clock.now
    assert places(await bench.classify("0b")) == [1]
    assert waited == [pytest.approx(1.1, abs=0.11)]
    assert len(bench.graph.runs) < 20


def test_the_share_of_texts_that_pass_on_enters_the_predicted_wait(clock):
    first, last = runner(0, None, limits=ALONE, run=1.0), stage(1, last=True, limits=ALONE, cost=Known(run=10.0))
    admission = Admission([(first, 1), (last, 1)], 100, [None])

    def wait() -> int:
        refused = admission.refusal(10, 40, clock.now, clock.now)
        assert refused is not None
        return int(refused.message.split()[4])

    assert wait() == 1000 * (10 + 5 * 10), "half of the texts before any is known"
    submission = Submission(["a"] * 1000, lambda _: None, 0.0, clock.now)
    batch = first.run([Item(submission, index, 1, clock.now) for index in range(1000)], lambda *_: None)
    assert len(batch.results) == 1000
    first.learn(batch)
    assert wait() == pytest.approx(1000 * 10, rel=0.02)
    last.queue.add([Item(submission, 0, 4, clock.now)], 4)
    assert wait() == pytest.approx(1000 * 20, rel=0.02)


async def test_under_overload_a_thread_runs_every_stage_and_then_the_event_loop_again(cascade):
    graph = Graph()
    graph.gate.set()
    bench = cascade(stage(1, graph, last=True, cost=Known(run=1.0)), workers=0, queue_limit=2)
    waiting = [bench.ask("0a"), bench.ask("b")]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        bench.scheduler.submit(["x"], lambda _: None)
    assert [places(answers) for answers in await asyncio.gather(*waiting)] == [[1], [0]]
    assert graph.ran_by == ["inference-0"]
    await until(lambda: not bench.scheduler.overload.crowded)
    await bench.classify("0c")
    assert graph.ran_by == ["inference-0", "MainThread"]
