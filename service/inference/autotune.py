"""How to run a graph on this machine: measured when it is loaded, within about a second, unless a setting says it.

Workers x threads within a run x texts in a run: what gives the most texts per second is taken. A graph whose run costs
less than handing it to a thread and back runs on the event loop, and so does a small graph where there is one CPU.
While others have that, measuring takes longer, and finds nearly the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from threading import Barrier
from typing import TypeVar

import structlog

from export.bundle.format import MODEL, Bundle
from export.bundle.providers import MOST_ROWS
from service.inference.batching import ALONE, Limits
from service.inference.cost_model import Cost
from service.inference.runner import Runs

Graph = TypeVar("Graph", bound=Runs)
Clock = Callable[[], float]
"""Tells seconds, of which differences count."""

logger = structlog.get_logger(__name__)

BUDGETS = (32, 64, 128, 256, 512, 1024)
"""Padded tokens of a run."""

GPU_BUDGETS = (4096, 16384, 65536)
"""The same on a GPU, which one worker keeps busy."""

_ALIKE = 0.05
"""By what share the graphs of students may differ in size that cost the same; one that is trained again hardly does."""

_GAIN = 1.02  # what is less than so much better may be chance; a longer run makes everyone wait longer
_SECONDS = 0.8
_ROUNDS = 2
_TRIAL_SECONDS = 0.02
_TRIED = 8
_FIRST_RUNS = 3  # of a thread and a shape on a GPU: there the first takes many times as long
_HOPS = 50
_LOOP_SECONDS = 0.02  # so long at most may a run on the event loop keep everything else waiting
_TURN_SECONDS = 0.0004  # what the event loop needs between two runs, its caches being full of the model, beside texts


@dataclass(frozen=True, slots=True)
class Plan:
    """`workers` threads, or for 0 the event loop, each running up to `limits` at a time, each run on `threads`.

    `cost` is what runs were measured to cost.
    """

    workers: int
    threads: int
    limits: Limits
    cost: Cost = field(default_factory=Cost, compare=False)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a plan depends on beside the settings."""

    family: str
    variant: str
    graph_bytes: int
    max_tokens: int
    batches: bool
    cpus: int

    @classmethod
    def of(cls, bundle: Bundle, *, batches: bool, cpus: int) -> Conditions:
        """Those of a bundle whose texts may share a run or not, on so many CPUs. Raises OSError."""
        manifest, graph = bundle.manifest, bundle.path / MODEL
        return cls(manifest.family, manifest.variant, graph.stat().st_size, manifest.max_tokens, batches, cpus)

    def like(self, other: Conditions) -> bool:
        """Whether a plan for the one is as good for the other."""
        alike = abs(self.graph_bytes - other.graph_bytes) <= _ALIKE * other.graph_bytes
        return alike and replace(self, graph_bytes=0) == replace(other, graph_bytes=0)


@dataclass(frozen=True, slots=True)
class Asked:
    """What settings fix of the plan; None is for the measurement to find."""

    workers: int | None = None
    threads: int | None = None
    batch_tokens: int | None = None


def choose(
    make: Callable[[int], Graph], texts: Sequence[str], asked: Asked, *, cpus: int, batches: bool, gpu: bool = False
) -> tuple[Plan, Graph]:
    """Measure and choose. `make(threads)` gives the graph on so many threads; `texts` are typical ones.

    `batches` says whether texts may share a run at all, `gpu` that runs are not the CPUs' work. Gives the plan with the
    graph that was made for it.
    """
    make = cache(make)
    first = make(asked.threads or 1)
    if asked.workers is None and gpu:
        asked = replace(asked, workers=1)
    elif asked.workers is None and _on_loop(first, texts, asked.threads or 1, cpus):
        asked = replace(asked, workers=0)
    shapes = _shapes(asked, cpus)
    limits = _limits(asked, batches, gpu, first.packed)
    if len(shapes) == len(limits) == 1:
        ((workers, threads),) = shapes
        return Plan(workers, threads, limits[0]), make(threads)
    graphs = {threads: make(threads) for _, threads in shapes}
    plans: dict[Plan, float] = {}
    for workers, threads in shapes:
        cost = Cost()
        plans |= {Plan(workers, threads, limit, cost): 0.0 for limit in limits}
    clock = _clock(shapes, gpu)
    ends = clock() + _SECONDS
    for plan in [*plans] * _ROUNDS:
        if clock() > ends and any(plans.values()):
            break
        if _too_long(plan):
            continue
        rate = _texts_per_second(graphs[plan.threads], texts, plan, clock, untimed=_FIRST_RUNS if gpu else 0)
        plans[plan] = max(plans[plan], rate)  # the machine's other work can only make it slower
    plans = {plan: rate for plan, rate in plans.items() if rate and not _too_long(plan)}
    for plan, rate in plans.items():
        logger.info(
            "measured",
            workers=plan.workers,
            threads=plan.threads,
            tokens=plan.limits.tokens,
            texts_per_second=round(rate),
        )
    enough = max(plans.values()) / _GAIN
    good = [plan for plan, rate in plans.items() if rate >= enough]
    # A packed run takes half of what waits: it is long where many wait, who are served the sooner by it.
    plan = good[-1] if first.packed and not good[-1].workers else good[0]
    return plan, graphs[plan.threads]


def _clock(shapes: Sequence[tuple[int, int]], gpu: bool) -> Clock:
    """What runs are timed by: a thread's own time where it alone runs the graph, for others may have its CPU too."""
    alone = not gpu and all(workers <= 1 and threads == 1 for workers, threads in shapes)
    return time.thread_time if alone else time.monotonic


def _too_long(plan: Plan) -> bool:
    """Whether a run would keep the event loop for too long, as far as runs were measured; a text alone never does."""
    return not plan.workers and plan.limits != ALONE and plan.cost.seconds(plan.limits.tokens, 1) > _LOOP_SECONDS


def _shapes(asked: Asked, cpus: int) -> list[tuple[int, int]]:
    """The pairs of workers and threads to try, those that settings fix being fixed."""
    if asked.workers is not None:
        return [(asked.workers, asked.threads or 1)]
    if asked.threads is not None:
        return [(max(1, cpus // asked.threads), asked.threads)]
    halves = [(cpus // 2, 2)] if cpus >= 4 else []
    return list(dict.fromkeys([(cpus, 1), *halves, (1, cpus)]))


def _limits(asked: Asked, batches: bool, gpu: bool, packed: bool) -> list[Limits]:
    if not batches or asked.batch_tokens == 0:
        return [ALONE]
    budgets = [asked.batch_tokens] if asked.batch_tokens else GPU_BUDGETS if gpu else BUDGETS
    limits = [Limits(tokens, MOST_ROWS) if gpu else Limits(tokens, packed=packed) for tokens in budgets]
    return limits if asked.batch_tokens else [ALONE, *limits]


def _texts_per_second(graph: Runs, texts: Sequence[str], plan: Plan, clock: Clock, *, untimed: int = 0) -> float:
    """The rate of all workers together, on full batches of the text of median length; `plan.cost` learns of them.

    Each worker begins with so many runs that are not timed.
    """
    rows = sorted((graph.encode(text) for text in texts), key=lambda row: len(row.ids))
    row = rows[len(rows) // 2]
    batch = [row] * max(1, min(plan.limits.rows, plan.limits.tokens // max(1, len(row.ids))))
    workers = max(plan.workers, 1)
    ready = Barrier(workers)

    def prepare(_: int) -> None:
        try:
            for _ in range(untimed):
                graph.run(batch)
        finally:
            ready.wait()  # so that each worker prepares itself

    def work(_: int) -> list[float]:
        spent: list[float] = []
        while not spent or clock() < ends:
            started = clock()
            graph.run(batch)
            spent.append(clock() - started)
        return spent

    with ExitStack() as stack:
        # A single worker's part is done here, in the thread whose time the clock may tell.
        each = stack.enter_context(ThreadPoolExecutor(workers)).map if workers > 1 else map
        list(each(prepare, range(workers)))
        begun = clock()
        ends = begun + _TRIAL_SECONDS
        runs = [seconds for spent in each(work, range(workers)) for seconds in spent]
        between = 0.0 if plan.workers else _TURN_SECONDS * len(runs)
        rate = len(runs) * len(batch) / (clock() - begun + between)
    for seconds in runs:
        plan.cost.learn(len(batch) * len(row.ids), seconds)
    return rate


def _on_loop(graph: Runs, texts: Sequence[str], threads: int, cpus: int) -> bool:
    """Whether the event loop should run the graph: when that costs less than a thread, or there is one CPU for both.

    In neither case for so long that others wait for it.
    """
    # Where a run is compared with a hop, which waits, both are told all the time that passes.
    clock = _clock([(0, threads)], gpu=False) if cpus == 1 else time.monotonic
    run, hop = _run_seconds(graph, texts, clock), _hop_seconds()
    logger.info("measured", cpus=cpus, run_us=round(run * 1e6), thread_hop_us=round(hop * 1e6))
    return run < _LOOP_SECONDS and (cpus == 1 or run < hop)


def _run_seconds(graph: Runs, texts: Sequence[str], clock: Clock) -> float:
    """The median time to tokenise and run one text, of a few."""
    spent = []
    for text in texts[:_TRIED]:
        begun = clock()
        graph.run([graph.encode(text)])
        spent.append(clock() - begun)
    return sorted(spent)[len(spent) // 2]


def _hop_seconds() -> float:
    """The median time to hand something from an event loop to a thread and get it back."""

    async def hops() -> list[float]:
        spent = []
        with ThreadPoolExecutor(1) as pool:
            for _ in range(_HOPS):
                begun = time.perf_counter()
                await asyncio.get_running_loop().run_in_executor(pool, int)
                spent.append(time.perf_counter() - begun)
        return spent

    with ThreadPoolExecutor(1) as aside:  # this thread may have a running loop
        spent = aside.submit(asyncio.run, hops()).result()
    return sorted(spent)[_HOPS // 2]
