"""A bounded queue of texts, and what runs them: threads, or in their place the event loop itself.

Who is free takes of what is waiting as many texts as are worth a run, and never waits for more to come. All that a
thread's run answered goes back to the event loop in one call. One condition guards the queue; everything else is the
event loop's alone.

Without threads the event loop reads every request that has arrived, runs one batch, answers it, and reads again. That
serves a graph that is cheaper than a thread, and a single core: there a thread would be interrupted by each request
that comes, and each would find the caches full of the model. Only while there are more requests than can be answered
does a thread run the graph there too, and gives way: for a refusal is of use at once, and would wait for a run.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from copy import copy
from functools import partial
from threading import Condition, Lock, Thread

from starlette.requests import ClientDisconnect

from export.bundle.classifier import Encoded, InferenceError, Prediction
from export.bundle.guard import is_panic
from service.errors import DeadlineError, InferenceFailedError, NotReadyError, OverloadedError
from service.inference.admission import Admission
from service.inference.batching import Limits, by_length, choose, estimate_tokens, tokens_of
from service.inference.cost_model import Cost
from service.inference.queue import Waiting
from service.inference.runner import Done, Leaving, Refusal, Runs, Staged, Withdraw
from service.inference.types import Batch, Item, Outcome, Request, Run
from service.process.priority import give_way
from service.telemetry.metrics import ModelMetrics

_JOIN_SECONDS = 5.0
_WATCH_SECONDS = 0.05
"""Watching for a client that leaves costs a task, so only a request that waits as long as this is watched."""

_CALM_SECONDS = 1.0
"""So long after the last refusal are there no more requests than can be answered."""

_RELIEF_SECONDS = 0.002
"""A longer run on the event loop is too long for a refusal to wait for."""

_GATHER_SECONDS = 0.002
"""So long does the event loop leave the core to that thread, before it refuses what has come meanwhile.

Each time it wakes it finds the caches full of the model; for several requests in a row that is paid once.
"""


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
        self._stall_seconds = stall_seconds
        self._lock = Lock()
        self._queue = Condition(self._lock)
        self._waiting = Waiting()
        self._stopped = False
        self._threads = [self._thread(number) for number in range(workers)]
        self._turns = not workers
        """Whether the event loop runs the graph itself as a rule."""

        self._by_turns = self._turns
        """Whether it does now."""

        self.crowded = False

        self._refused = -math.inf
        self._busy_since: list[float | None] = [None] * max(workers, 1)
        self._free_since = [0.0] * max(workers, 1)
        self._turning = self._gathering = False
        self._looking: asyncio.TimerHandle | None = None
        self._open: set[Request] = set()
        # Apart: what is done between two runs is done for each text, however many of them share a run.
        self._graph_cost = cost or Cost()
        self._cost = copy(self._graph_cost)
        self._admission = Admission(self._waiting, self._cost, limits, queue_limit, self._busy_since)
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
        request = Request(texts, done, math.inf if deadline is None else deadline, now, leaving, staged)
        items = [Item(request, index, estimate_tokens(text, self._max_tokens)) for index, text in enumerate(texts)]
        self._admit(items, request.deadline, now)
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

    def refusal(self, seconds: float | None = None) -> Refusal | None:
        """Why a request of which nothing is known yet gets no answer; see `Runner`."""
        refusal = None if self._stopped else self._admission.usual(seconds)
        if refusal is not None:
            self._note_refusal(time.monotonic())
        return refusal

    def _admit(self, items: Sequence[Item], deadline: float, now: float) -> None:
        """Refuse texts before any work is done for them, unless they will be answered in time."""
        if self._stopped:
            raise NotReadyError("the inference threads are gone; ask another replica")
        refusal = self._admission.refusal(len(items), tokens_of(items), deadline, now)
        if refusal is not None:
            self._note_refusal(now)
            raise OverloadedError(refusal.message, retry_after=refusal.retry_after)

    def _note_refusal(self, now: float) -> None:
        self._refused = now
        if not self.crowded:
            self._crowd()

    def _crowd(self) -> None:
        """Expect more refusals; where they would wait for a run on the event loop, let a thread run the graph."""
        self.crowded = True
        self._loop.call_later(_CALM_SECONDS, self._calm)
        if self._turns and self._graph_cost.seconds(self._limits.tokens, 1) > _RELIEF_SECONDS:
            with self._lock:
                self._by_turns = False
                self._queue.notify_all()
            if not self._threads:
                self._threads.append(self._thread(0, relief=True))
                self._threads[0].start()
            if not self._gathering:
                self._gathering = True
                self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        """Pause in every turn of the event loop, as long as a thread that gives way runs the graph."""
        self._gathering = not self._by_turns and not self._stopped
        if self._gathering:
            time.sleep(_GATHER_SECONDS)
            self._loop.call_soon(self._gather)

    def _calm(self) -> None:
        """Go on as usual once nothing has been refused for a while."""
        left = self._refused + _CALM_SECONDS - time.monotonic()
        if left > 0:
            self._loop.call_later(left, self._calm)
            return
        self.crowded = False
        with self._lock:
            self._by_turns = self._turns
        self._next_turn()

    def _put(self, items: list[Item]) -> None:
        self._open.add(items[0].request)
        with self._lock:
            self._waiting.add(items)
            if not self._by_turns:
                self._queue.notify(len(items))
        if self._looking is None and items[0].request.leaving is not None:
            self._looking = self._loop.call_later(_WATCH_SECONDS, self._look)
        self._next_turn()

    def _finish(self, request: Request, outcome: list[Prediction] | Exception) -> None:
        """Give a request its outcome, unless it has one."""
        if not request.settled:
            self._close(request)
            request.done(outcome)

    def _close(self, request: Request) -> None:
        """Forget a request; what waits of it gives its places to others."""
        if request.settled:
            return
        request.settled = True
        self._open.discard(request)
        if request.watch is not None:
            request.watch.cancel()
            request.watch = None  # a cancelled task keeps its frame, and that this request and the scheduler
        if len(request.predictions) == len(request.texts):
            return
        with self._lock:
            self._waiting.withdraw(request)

    def _look(self) -> None:
        """Begin to watch the clients of requests that wait for long."""
        since = time.monotonic() - _WATCH_SECONDS
        for request in self._open:
            if request.leaving is not None and request.watch is None and request.submitted <= since:
                request.watch = self._loop.create_task(self._watch(request, request.leaving))
        self._looking = self._loop.call_later(_WATCH_SECONDS, self._look) if self._open else None

    async def _watch(self, request: Request, leaving: Leaving) -> None:
        await leaving()
        self._finish(request, ClientDisconnect())

    def _next_turn(self) -> None:
        """See to it that the event loop runs what waits, where that is its task."""
        if self._by_turns and self._waiting and not self._turning and not self._stopped:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Run one batch on the event loop; what has arrived meanwhile is read before the next."""
        self._turning = False
        if self._by_turns and self._waiting and not self._stopped:
            self._admission.turned = time.monotonic()
            with self._lock:
                items = self._take()
            try:
                run = self._run(items, 0)
            except BaseException as error:  # as where a thread ends: clients must not be left waiting
                self._stop(_ended(error))
                raise
            self._settle(run)
        if not self._turning:
            self._admission.turned = None

    def _thread(self, number: int, relief: bool = False) -> Thread:
        return Thread(target=self._work, args=(number, relief), name=f"inference-{number}", daemon=True)

    def _work(self, number: int, relief: bool) -> None:
        if relief:
            give_way()
        try:
            while items := self._wait():
                self._loop.call_soon_threadsafe(self._settle, self._run(items, number))
                del items  # while it waits for the next, it keeps no text of the last
        except BaseException as error:  # a thread that ends unasked must not leave clients waiting
            self._loop.call_soon_threadsafe(self._stop, _ended(error))

    def _wait(self) -> list[Item]:
        """Wait for work and take the oldest of it; nothing when there will be no more."""
        with self._lock:
            while (self._by_turns or not self._waiting) and not self._stopped:
                self._queue.wait()
            return [] if self._stopped else self._take()

    def _take(self) -> list[Item]:
        """Take the oldest texts off the queue, whose condition is held."""
        return self._waiting.take(self._limits, self._graph_cost.slack)

    def _push_back(self, items: list[Item]) -> None:
        """Put texts back that wait for another run, but for those whose client has left meanwhile."""
        with self._lock:
            items = [item for item in items if not item.request.settled]
            self._waiting.put_back(items)
            if not self._by_turns:
                self._queue.notify(len(items))

    def _run(self, items: list[Item], number: int) -> Run:
        """Tokenise what was not, run what goes together of it, and put the others back."""
        run = Run(began=time.monotonic())
        tokens = min(tokens_of(items), self._limits.tokens)
        run.due = run.began + self._graph_cost.seconds(tokens, 1)
        self._busy_since[number] = run.began
        ready = [item for item in items if self._prepare(item, run)]
        if ready:
            for part in self._parts(ready):
                started = time.monotonic()
                answers = self._bisect([item.encoded for item in part if item.encoded is not None])
                run.outcomes += zip(part, answers, strict=True)
                run.batches.append(Batch(part, time.monotonic() - started))
        ended = time.monotonic()
        run.seconds = ended - run.began
        # With work waiting, what passes between two runs is part of what a run costs.
        run.occupied = ended - max(self._free_since[number], items[0].request.submitted)
        self._free_since[number] = ended
        self._busy_since[number] = None
        return run

    def _prepare(self, item: Item, run: Run) -> bool:
        """Tokenise an item. One that is late, or cannot be tokenised, has its outcome then."""
        if item.request.settled:
            return False
        if run.due > item.request.deadline:
            run.outcomes.append((item, DeadlineError("the deadline would pass before the answer is there")))
            return False
        if item.encoded is None:
            try:
                item.encoded = self._classifier.encode(item.request.texts[item.index])
            except BaseException as error:  # whatever it is, it concerns one request alone
                run.outcomes.append((item, _contained(error)))
                return False
            item.tokens = len(item.encoded.ids)
        return True

    def _parts(self, ready: list[Item]) -> list[list[Item]]:
        """What goes together of texts that were taken, in one run of the graph or several; the others are put back."""
        if len(ready) == 1:
            return [ready]
        slack = self._graph_cost.slack
        batch, others = choose(ready, self._limits, slack)
        if others:
            self._push_back(others)
        return by_length(batch, slack) if self._limits.packed else [batch]

    def _bisect(self, rows: list[Encoded]) -> list[Outcome]:
        """Answer rows together; where that fails, by halves, so that only what breaks the graph has no answer."""
        try:
            return [*self._classifier.run(rows)]
        except BaseException as error:  # whatever it is, it concerns some of the rows
            failure = _contained(error)
            if len(rows) == 1:
                return [failure]
        half = len(rows) // 2
        return [*self._bisect(rows[:half]), *self._bisect(rows[half:])]

    def _settle(self, run: Run) -> None:
        """Hand the outcomes of a run to the requests, and have them counted later; on the event loop."""
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
        self._metrics.later(partial(self._count, run))
        self._next_turn()

    def _count(self, run: Run) -> None:
        """Learn from a run what the next will cost, and count it."""
        total = 0
        for items, seconds in run.batches:
            total += (tokens := self._limits.paid(items))
            self._graph_cost.learn(tokens, seconds)
            self._metrics.batch(len(items), tokens)
        if run.batches:
            self._cost.learn(total, run.occupied)
            self._metrics.run_seconds.observe(run.seconds)
        for item, _ in run.outcomes:
            self._metrics.queue_seconds.observe(run.began - item.request.submitted)

    def _stop(self, failure: Exception) -> None:
        with self._lock:
            self._stopped = True
            self._queue.notify_all()
        for request in list(self._open):
            self._finish(request, failure)


def _contained(error: BaseException) -> Exception:
    """What texts fail with: the error, or for a panic of a library one that does not end the thread. Raises others."""
    if isinstance(error, Exception):
        return error
    if is_panic(error):
        return InferenceError("a library panicked")
    raise error


def _ended(error: BaseException) -> InferenceFailedError:
    """What requests fail with when what runs the graph has ended by an error."""
    failure = InferenceFailedError("the inference ended by an error; the service needs a restart")
    failure.__cause__ = error
    return failure
