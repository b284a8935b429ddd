"""Choose how to run a graph on this machine, by measurement when it is loaded, within about a second.

Tried are workers x threads within a run x texts in a run, except for what the settings fix; the combination with the
most texts per second wins. A graph whose run costs less than handing work to a thread and back runs on the event loop,
and so does a small graph where there is one CPU. On a busy CPU the measurement takes longer and finds nearly the same.
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
from service.inference.types import Graph

AnyGraph = TypeVar("AnyGraph", bound=Graph)
Clock = Callable[[], float]
"""Returns seconds from an arbitrary start."""

logger = structlog.get_logger(__name__)

BUDGETS = (32, 64, 128, 256, 512, 1024)
"""Padded tokens of a run that are tried."""

GPU_BUDGETS = (4096, 16384, 65536)
"""The same on a GPU."""

_SIZE_TOLERANCE = 0.05
"""Graphs whose sizes differ by at most this share cost the same; a student that is trained again stays within it."""

_GAIN = 1.02  # a smaller gain may be chance, and a longer run makes every request wait longer
_SECONDS = 0.8
_ROUNDS = 2
_TRIAL_SECONDS = 0.02
_TRIAL_TEXTS = 8
_FIRST_RUNS = 3  # untimed: on a GPU the first runs of a thread and a shape take many times as long
_HOPS = 50
_LOOP_SECONDS = 0.02  # longest run on the event loop, where it delays everything else
_TURN_SECONDS = 0.0004  # work of the event loop between two runs, with its caches full of the model


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to run a graph: on `workers` threads (0: on the event loop), within `limits`, each run on `threads`.

    `cost` was fitted to the runs of the measurement.
    """

    workers: int
    threads: int
    limits: Limits
    cost: Cost = field(default_factory=Cost, compare=False)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a tuning depends on, besides the settings."""

    family: str
    variant: str
    graph_bytes: int
    max_tokens: int
    batches: bool
    cpus: int

    @classmethod
    def of(cls, bundle: Bundle, *, batches: bool, cpus: int) -> Conditions:
        """Return those of `bundle` on `cpus` CPUs; `batches`: whether its texts may share a run. Raises OSError."""
        manifest, graph = bundle.manifest, bundle.path / MODEL
        return cls(manifest.family, manifest.variant, graph.stat().st_size, manifest.max_tokens, batches, cpus)

    def like(self, other: Conditions) -> bool:
        """Return whether a tuning for `other` holds here too."""
        alike = abs(self.graph_bytes - other.graph_bytes) <= _SIZE_TOLERANCE * other.graph_bytes
        return alike and replace(self, graph_bytes=0) == replace(other, graph_bytes=0)


@dataclass(frozen=True, slots=True)
class Overrides:
    """The parts of a tuning that the settings fix; None is left to the measurement."""

    workers: int | None = None
    threads: int | None = None
    batch_tokens: int | None = None


def choose(
    make: Callable[[int], AnyGraph],
    texts: Sequence[str],
    fixed: Overrides,
    *,
    cpus: int,
    batches: bool,
    gpu: bool = False,
) -> tuple[Tuning, AnyGraph]:
    """Measure and choose; return the tuning with the graph that was made for it.

    `make(threads)` returns the graph with an intra-op pool of `threads`; `texts` are typical texts. `batches` says
    whether texts may share a run, `gpu` whether the graph runs on a GPU.
    """
    make = cache(make)
    first = make(fixed.threads or 1)
    if fixed.workers is None and gpu:
        fixed = replace(fixed, workers=1)
    elif fixed.workers is None and _on_loop(first, texts, fixed.threads or 1, cpus):
        fixed = replace(fixed, workers=0)
    shapes = _shapes(fixed, cpus)
    limits = _limits(fixed, batches, gpu, first.packed)
    if len(shapes) == len(limits) == 1:
        ((workers, threads),) = shapes
        return Tuning(workers, threads, limits[0]), make(threads)
    graphs = {threads: make(threads) for _, threads in shapes}
    rates: dict[Tuning, float] = {}
    for workers, threads in shapes:
        cost = Cost()
        rates |= {Tuning(workers, threads, limit, cost): 0.0 for limit in limits}
    clock = _clock(shapes, gpu)
    ends = clock() + _SECONDS
    for tuning in [*rates] * _ROUNDS:
        if clock() > ends and any(rates.values()):
            break
        if _too_long(tuning):
            continue
        rate = _texts_per_second(graphs[tuning.threads], texts, tuning, clock, untimed=_FIRST_RUNS if gpu else 0)
        rates[tuning] = max(rates[tuning], rate)  # the machine's other work can only make it slower
    rates = {tuning: rate for tuning, rate in rates.items() if rate and not _too_long(tuning)}
    for tuning, rate in rates.items():
        logger.info(
            "measured",
            workers=tuning.workers,
            threads=tuning.threads,
            tokens=tuning.limits.tokens,
            texts_per_second=round(rate),
        )
    enough = max(rates.values()) / _GAIN
    good = [tuning for tuning, rate in rates.items() if rate >= enough]
    # A packed run takes half of the queue, so it is long only when many texts wait, and those gain from it.
    tuning = good[-1] if first.packed and not good[-1].workers else good[0]
    return tuning, graphs[tuning.threads]


def _clock(shapes: Sequence[tuple[int, int]], gpu: bool) -> Clock:
    """Return the clock for runs: the thread's CPU time where one thread runs the graph, else wall-clock time.

    CPU time leaves out what other processes take of a shared CPU.
    """
    alone = not gpu and all(workers <= 1 and threads == 1 for workers, threads in shapes)
    return time.thread_time if alone else time.monotonic


def _too_long(tuning: Tuning) -> bool:
    """Return whether a full run is predicted to block the event loop for too long; a single text always may run."""
    return (
        not tuning.workers and tuning.limits != ALONE and tuning.cost.seconds(tuning.limits.tokens, 1) > _LOOP_SECONDS
    )


def _shapes(fixed: Overrides, cpus: int) -> list[tuple[int, int]]:
    """Return the pairs of workers and threads to try."""
    if fixed.workers is not None:
        return [(fixed.workers, fixed.threads or 1)]
    if fixed.threads is not None:
        return [(max(1, cpus // fixed.threads), fixed.threads)]
    halves = [(cpus // 2, 2)] if cpus >= 4 else []
    return list(dict.fromkeys([(cpus, 1), *halves, (1, cpus)]))


def _limits(fixed: Overrides, batches: bool, gpu: bool, packed: bool) -> list[Limits]:
    if not batches or fixed.batch_tokens == 0:
        return [ALONE]
    budgets = [fixed.batch_tokens] if fixed.batch_tokens else GPU_BUDGETS if gpu else BUDGETS
    limits = [Limits(tokens, MOST_ROWS) if gpu else Limits(tokens, packed=packed) for tokens in budgets]
    return limits if fixed.batch_tokens else [ALONE, *limits]


def _texts_per_second(graph: Graph, texts: Sequence[str], tuning: Tuning, clock: Clock, *, untimed: int = 0) -> float:
    """Measure the texts per second of all workers together, on full batches of the text of median length.

    `tuning.cost` learns from the runs. Each worker first makes `untimed` runs.
    """
    rows = sorted((graph.encode(text) for text in texts), key=lambda row: len(row.ids))
    row = rows[len(rows) // 2]
    batch = [row] * max(1, min(tuning.limits.rows, tuning.limits.tokens // max(1, len(row.ids))))
    workers = max(tuning.workers, 1)
    ready = Barrier(workers)

    def prepare(_: int) -> None:
        try:
            for _ in range(untimed):
                graph.run(batch)
        finally:
            ready.wait()  # one call per worker: none may take two

    def work(_: int) -> list[float]:
        spent: list[float] = []
        while not spent or clock() < ends:
            started = clock()
            graph.run(batch)
            spent.append(clock() - started)
        return spent

    with ExitStack() as stack:
        # A single worker is this thread: `clock` may be its CPU time.
        each = stack.enter_context(ThreadPoolExecutor(workers)).map if workers > 1 else map
        list(each(prepare, range(workers)))
        begun = clock()
        ends = begun + _TRIAL_SECONDS
        runs = [seconds for spent in each(work, range(workers)) for seconds in spent]
        between = 0.0 if tuning.workers else _TURN_SECONDS * len(runs)
        rate = len(runs) * len(batch) / (clock() - begun + between)
    for seconds in runs:
        tuning.cost.learn(len(batch) * len(row.ids), seconds)
    return rate


def _on_loop(graph: Graph, texts: Sequence[str], threads: int, cpus: int) -> bool:
    """Return whether the event loop should run the graph.

    It should where a run is short enough not to delay others, and either costs less than handing it to a thread or
    would share the only CPU with that thread.
    """
    # A thread hop blocks, so compare it with a run by wall-clock time.
    clock = _clock([(0, threads)], gpu=False) if cpus == 1 else time.monotonic
    run, hop = _run_seconds(graph, texts, clock), _hop_seconds()
    logger.info("measured", cpus=cpus, run_us=round(run * 1e6), thread_hop_us=round(hop * 1e6))
    return run < _LOOP_SECONDS and (cpus == 1 or run < hop)


def _run_seconds(graph: Graph, texts: Sequence[str], clock: Clock) -> float:
    """Return the median seconds to tokenise and run one text."""
    spent = []
    for text in texts[:_TRIAL_TEXTS]:
        begun = clock()
        graph.run([graph.encode(text)])
        spent.append(clock() - begun)
    return sorted(spent)[len(spent) // 2]


def _hop_seconds() -> float:
    """Return the median seconds to hand a call from an event loop to a thread and get its result."""

    async def hops() -> list[float]:
        spent = []
        with ThreadPoolExecutor(1) as pool:
            for _ in range(_HOPS):
                begun = time.perf_counter()
                await asyncio.get_running_loop().run_in_executor(pool, int)
                spent.append(time.perf_counter() - begun)
        return spent

    with ThreadPoolExecutor(1) as elsewhere:  # this thread may have a running loop
        spent = elsewhere.submit(asyncio.run, hops()).result()
    return sorted(spent)[_HOPS // 2]
