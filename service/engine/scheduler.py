"""A bounded queue of texts, and what runs them: threads, or in their place the event loop itself.

Who is free takes what is waiting, as many texts as fit into one run, and never waits for more to come. All that a
thread's run answered goes back to the event loop in one call. One condition guards the queue; everything else is the
event loop's alone.

Without threads the event loop reads every request that has arrived, runs one batch, answers it, and reads again. That
serves a graph that is cheaper than a thread, and a single core: there a thread would be interrupted by each request
that comes, and each would find the caches full of the model.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from heapq import merge
from threading import Condition, Thread
from typing import Any

from starlette.requests import ClientDisconnect

from export.runtime import Encoded, Prediction
from service.engine.batching import Limits, choose, estimate_tokens, window
from service.engine.cost import Cost, whole_seconds
from service.engine.runner import Done, Leaving, Runs, Staged, Withdraw
from service.errors import DeadlineError, InferenceFailedError, NotReadyError, OverloadedError
from service.metrics import ModelMetrics

_JOIN_SECONDS = 5.0
_WATCH_SECONDS = 0.05
"""Watching for a client that leaves costs a task, so only a request that waits as long as this is watched."""

Outcome = Prediction | Exception


@dataclass(slots=True, eq=False)
class _Request:
    """The texts of one request and what is known of their answers."""

    texts: Sequence[str]
    done: Done
    deadline: float
    submitted: float
    leaving: Leaving | None
    staged: Staged | None
    predictions: dict[int, Prediction] = field(default_factory=dict)
    settled: bool = False
    watch: asyncio.Task[None] | None = None


@dataclass(slots=True, eq=False)
class _Item:
    """One text of a request. `tokens` are estimated until it is `encoded`."""

    request: _Request
    index: int
    tokens: int
    encoded: Encoded | None = None


@dataclass(slots=True, eq=False)
class _Run:
    """What one run has settled: each item with its outcome, and how long it took."""

    began: float
    due: float = 0.0
    """When it should be over."""

    outcomes: list[tuple[_Item, Outcome]] = field(default_factory=list)
    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    graph_seconds: float = 0.0
    occupied: float = 0.0


def _age(item: _Item) -> float:
    return item.request.submitted


class Scheduler:
    """`workers` threads, or for 0 the event loop, with one queue of at most `queue_limit` texts; see `Runner`."""

    def __init__(
        self,
        classifier: Runs,
        metrics: ModelMetrics,
        *,
        workers: int,
        limits: Limits,
        max_tokens: int,
        queue_limit: int,
        stall_seconds: float,
        cost: Cost | None = None,
    ) -> None:
        self._classifier = classifier
        self._metrics = metrics
        self._limits = limits
        self._max_tokens = max_tokens
        self._queue_limit = queue_limit
        self._stall_seconds = stall_seconds
        self._queue = Condition()
        self._waiting: deque[_Item] = deque()
        self._waiting_tokens = 0
        self._stopped = False
        self._threads = [
            Thread(target=self._work, args=(number,), name=f"inference-{number}", daemon=True)
            for number in range(workers)
        ]
        self._guard: AbstractContextManager[Any] = self._queue if workers else nullcontext()
        self._busy_since: list[float | None] = [None] * max(workers, 1)
        self._free_since = [0.0] * max(workers, 1)
        self._turning = False
        self._turned: float | None = None
        """When the last run on the event loop began, as long as there is a next."""

        self._looking: asyncio.TimerHandle | None = None
        self._open: set[_Request] = set()
        # Apart: what is done between two runs is done for each text, however many of them share a run.
        self._graph_cost = cost or Cost()
        self._cost = copy(self._graph_cost)
        # Not by way of `self`: a cycle would keep the classifier until the collector looks, which may be never.
        requests, waiting = self._open, self._waiting
        metrics.inflight.set_function(lambda: sum(len(request.texts) for request in requests))
        metrics.queue_depth.set_function(lambda: len(waiting))

    def start(self) -> None:
        """Start the threads; they answer to the running event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every thread runs and none has been on one run for too long."""
        oldest = min((since for since in self._busy_since if since is not None), default=math.inf)
        stalled = time.monotonic() - oldest > self._stall_seconds
        return not self._stopped and not stalled and all(thread.is_alive() for thread in self._threads)

    @property
    def idle(self) -> bool:
        """Whether no text waits for a run."""
        return not self._waiting

    def submit(
        self,
        texts: Sequence[str],
        done: Done,
        *,
        deadline: float | None = None,
        leaving: Leaving | None = None,
        staged: Staged | None = None,
    ) -> Withdraw:
        """Take in texts; see `Runner`."""
        now = time.monotonic()
        request = _Request(texts, done, math.inf if deadline is None else deadline, now, leaving, staged)
        items = [_Item(request, index, estimate_tokens(text, self._max_tokens)) for index, text in enumerate(texts)]
        self._admit(len(items), sum(item.tokens for item in items), request.deadline, now)
        self._put(items)
        return partial(self._close, request)

    async def classify(
        self,
        texts: Sequence[str],
        *,
        deadline: float | None = None,
        leaving: Leaving | None = None,
        staged: Staged | None = None,
    ) -> list[Prediction]:
        """Answer all texts or none; see `Runner`."""
        answer: asyncio.Future[list[Prediction]] = self._loop.create_future()

        def done(outcome: list[Prediction] | Exception) -> None:
            if answer.done():  # cancelled, and nobody was told yet
                return
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        withdraw = self.submit(texts, done, deadline=deadline, leaving=leaving, staged=staged)
        try:
            return await answer
        finally:
            withdraw()

    async def close(self) -> None:
        """End the threads after the run that each is on; requests still open fail."""
        self._stop(NotReadyError("the service is stopping; ask another replica"))
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))

    def check(self, deadline: float | None = None) -> None:
        """Refuse what nothing is known of yet; see `Runner`."""
        self._admit(1, 1, math.inf if deadline is None else deadline, time.monotonic())

    def _admit(self, count: int, tokens: int, deadline: float, now: float) -> None:
        """Refuse texts before any work is done for them, unless they will be answered in time."""
        if self._stopped:
            raise NotReadyError("the inference threads are gone; ask another replica")
        waiting = len(self._waiting)
        seconds = self._predict(waiting + count, self._waiting_tokens + tokens)
        seconds *= 1 + self._cost.spread  # a machine that is slow now stays so for the runs before this one
        if self._turned is not None:  # it may have come as the last run on the event loop began
            seconds += now - self._turned
        if waiting + count > self._queue_limit:
            again = whole_seconds(seconds)
            raise OverloadedError(
                f"{waiting} texts are waiting and {count} more exceed the limit of {self._queue_limit}; "
                f"try again in {again} s",
                retry_after=again,
            )
        if now + seconds > deadline:
            again = whole_seconds(now + seconds - deadline)
            raise OverloadedError(
                f"an answer would take about {seconds * 1000:.0f} ms, more than the "
                f"{max(0.0, deadline - now) * 1000:.0f} ms that are left; try again in {again} s",
                retry_after=again,
            )

    def _predict(self, texts: int, tokens: int) -> float:
        """Seconds until so many texts, of so many tokens, have been answered, beside what is being run."""
        runs = max(math.ceil(texts / self._limits.rows), math.ceil(tokens / max(self._limits.tokens, 1)))
        runs = min(runs, texts)
        seconds = self._cost.seconds(tokens, runs) / len(self._busy_since)
        if None in self._busy_since:
            return seconds
        # What runs now is over, on average, after half a run.
        return seconds + self._cost.seconds(min(self._limits.tokens, tokens), 1) / 2

    def _put(self, items: list[_Item]) -> None:
        self._open.add(items[0].request)
        with self._guard:
            self._waiting.extend(items)
            self._waiting_tokens += sum(item.tokens for item in items)
            if self._threads:
                self._queue.notify(len(items))
        if self._looking is None and items[0].request.leaving is not None:
            self._looking = self._loop.call_later(_WATCH_SECONDS, self._look)
        if not self._threads and not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _finish(self, request: _Request, outcome: list[Prediction] | Exception) -> None:
        """Give a request its outcome, unless it has one."""
        if not request.settled:
            self._close(request)
            request.done(outcome)

    def _close(self, request: _Request) -> None:
        """Forget a request; what waits of it gives its places to others."""
        if request.settled:
            return
        request.settled = True
        self._open.discard(request)
        if request.watch is not None:
            request.watch.cancel()
        if len(request.predictions) == len(request.texts):
            return
        with self._guard:
            kept = [item for item in self._waiting if item.request is not request]
            self._waiting_tokens -= sum(item.tokens for item in self._waiting if item.request is request)
            self._waiting.clear()
            self._waiting.extend(kept)

    def _look(self) -> None:
        """Begin to watch the clients of requests that wait for long."""
        since = time.monotonic() - _WATCH_SECONDS
        for request in self._open:
            if request.leaving is not None and request.watch is None and request.submitted <= since:
                request.watch = self._loop.create_task(self._watch(request, request.leaving))
        self._looking = self._loop.call_later(_WATCH_SECONDS, self._look) if self._open else None

    async def _watch(self, request: _Request, leaving: Leaving) -> None:
        await leaving()
        self._finish(request, ClientDisconnect())

    def _turn(self) -> None:
        """Run one batch on the event loop; what has arrived meanwhile is read before the next."""
        if self._waiting and not self._stopped:
            self._turned = time.monotonic()
            self._settle(self._run(self._pop(), 0))
        self._turning = bool(self._waiting) and not self._stopped
        if self._turning:
            self._loop.call_soon(self._turn)
        else:
            self._turned = None

    def _work(self, number: int) -> None:
        try:
            while items := self._wait():
                self._loop.call_soon_threadsafe(self._settle, self._run(items, number))
                del items  # while it waits for the next, it keeps no text of the last
        except BaseException as error:  # a thread that ends unasked must not leave clients waiting
            failure = InferenceFailedError("an inference thread ended; the service needs a restart")
            failure.__cause__ = error
            self._loop.call_soon_threadsafe(self._stop, failure)

    def _wait(self) -> list[_Item]:
        """Wait for work and take the oldest of it; nothing when there will be no more."""
        with self._queue:
            while not self._waiting and not self._stopped:
                self._queue.wait()
            return [] if self._stopped else self._pop()

    def _pop(self) -> list[_Item]:
        """Take the oldest texts off the queue, whose condition is held where there are threads."""
        count = min(window(self._waiting, self._limits), len(self._waiting))
        items = [self._waiting.popleft() for _ in range(count)]
        self._waiting_tokens -= sum(item.tokens for item in items)
        return items

    def _push_back(self, items: list[_Item]) -> None:
        """Put texts back at their place: another thread may have put back older ones, and clients may have left."""
        with self._guard:
            items = [item for item in items if not item.request.settled]
            self._waiting_tokens += sum(item.tokens for item in items)
            if self._threads:
                self._queue.notify(len(items))
            if items and self._waiting and _age(self._waiting[0]) < _age(items[-1]):
                items = [*merge(items, self._waiting, key=_age)]
                self._waiting.clear()
            self._waiting.extendleft(reversed(items))

    def _run(self, items: list[_Item], number: int) -> _Run:
        """Tokenise what was not, run the next batch of it, and put the others back."""
        run = _Run(began=time.monotonic())
        tokens = min(sum(item.tokens for item in items), self._limits.tokens)
        run.due = run.began + self._graph_cost.seconds(tokens, 1)
        self._busy_since[number] = run.began
        ready = [item for item in items if self._prepare(item, run)]
        if ready:
            batch, others = choose(ready, self._limits, self._graph_cost.slack)
            if others:
                self._push_back(others)
            started = time.monotonic()
            answers = self._bisect([item.encoded for item in batch if item.encoded is not None])
            run.graph_seconds = time.monotonic() - started
            run.outcomes += zip(batch, answers, strict=True)
            run.texts = len(batch)
            run.tokens = self._limits.paid(batch)
        ended = time.monotonic()
        run.seconds = ended - run.began
        # With work waiting, what passes between two runs is part of what a run costs.
        run.occupied = ended - max(self._free_since[number], items[0].request.submitted)
        self._free_since[number] = ended
        self._busy_since[number] = None
        return run

    def _prepare(self, item: _Item, run: _Run) -> bool:
        """Tokenise an item. One that is late, or cannot be tokenised, has its outcome then."""
        if item.request.settled:
            return False
        if run.due > item.request.deadline:
            run.outcomes.append((item, DeadlineError("the deadline would pass before the answer is there")))
            return False
        if item.encoded is None:
            try:
                item.encoded = self._classifier.encode(item.request.texts[item.index])
            except Exception as error:  # whatever it is, it concerns one request alone
                run.outcomes.append((item, error))
                return False
            item.tokens = len(item.encoded.ids)
        return True

    def _bisect(self, rows: list[Encoded]) -> list[Outcome]:
        """Answer rows together; where that fails, by halves, so that only what breaks the graph has no answer."""
        try:
            return [*self._classifier.run(rows)]
        except Exception as error:  # whatever it is, it concerns some of the rows
            if len(rows) == 1:
                return [error]
        half = len(rows) // 2
        return [*self._bisect(rows[:half]), *self._bisect(rows[half:])]

    def _settle(self, run: _Run) -> None:
        """Hand the outcomes of a run to the requests, and count then, when nobody waits; on the event loop."""
        for item, outcome in run.outcomes:
            request = item.request
            if request.staged is not None:
                request.staged("queue", request.submitted, run.began)
                request.staged("run", run.began, run.began + run.seconds)
            if isinstance(outcome, Prediction):
                request.predictions[item.index] = outcome
                if len(request.predictions) == len(request.texts):
                    self._finish(request, [request.predictions[index] for index in range(len(request.texts))])
            elif isinstance(outcome, DeadlineError):
                self._finish(request, outcome)
            else:
                failure = InferenceFailedError.of(item.index, len(request.texts))
                failure.__cause__ = outcome
                self._finish(request, failure)
        self._count(run)

    def _count(self, run: _Run) -> None:
        if run.texts:
            self._cost.learn(run.tokens, run.occupied)
            self._graph_cost.learn(run.tokens, run.graph_seconds)
            self._metrics.run(run.texts, run.tokens, run.seconds)
        for item, _ in run.outcomes:
            self._metrics.queue_seconds.observe(run.began - item.request.submitted)

    def _stop(self, failure: Exception) -> None:
        with self._queue:
            self._stopped = True
            self._queue.notify_all()
        for request in list(self._open):
            self._finish(request, failure)
