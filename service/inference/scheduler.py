"""A bounded queue of texts, and what runs them: threads, or the event loop itself.

A free thread takes as many waiting texts as are worth a run and never waits for more to arrive. All results of its
batch go back to the event loop in one call. One lock guards the queue; everything else belongs to the event loop.

Without threads the event loop reads every request that has arrived, runs one batch, answers it, and reads again. That
serves a graph that costs less than a thread hop, and a single core: there each arriving request would interrupt the
thread, and find the caches full of the model. Under overload a thread runs the graph there too; see `overload`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from copy import copy
from functools import partial
from operator import attrgetter
from threading import Condition, Lock, Thread

from export.bundle.classifier import Encoded, InferenceError, Prediction
from export.bundle.guard import is_panic
from service.errors import DeadlineError, InferenceFailedError, NotReadyError, OverloadedError
from service.inference.admission import Admission
from service.inference.batching import CHARACTERS_PER_TOKEN, SPECIAL_TOKENS, Limits, by_length, choose, tokens_of
from service.inference.cost_model import Cost
from service.inference.overload import Overload
from service.inference.queue import Queue
from service.inference.types import (
    BatchResult,
    Done,
    Graph,
    GraphRun,
    Item,
    RecordStage,
    Refusal,
    Submission,
    TextResult,
    Withdraw,
)
from service.process.priority import lower_priority
from service.telemetry.metrics import ModelMetrics

_JOIN_SECONDS = 5.0

_encoded = attrgetter("encoded")


class Scheduler:
    """Answers texts with `workers` threads, or for 0 on the event loop, from one queue of at most `queue_limit` texts.

    A text may have at most `max_tokens` tokens. A run that takes longer than `stall_seconds` means that it hangs.
    `cost` is what runs are known to cost so far.
    """

    def __init__(
        self,
        graph: Graph,
        metrics: ModelMetrics,
        *,
        workers: int,
        limits: Limits,
        max_tokens: int,
        queue_limit: int,
        stall_seconds: float,
        cost: Cost | None = None,
    ) -> None:
        self._graph = graph
        self._metrics = metrics
        self._limits = limits
        self._max_tokens = max_tokens
        self._stall_seconds = stall_seconds
        self._lock = Lock()
        self._work = Condition(self._lock)
        self._queue = Queue()
        self._open: set[Submission] = set()
        self._stopped = False
        self._threads = [self._thread(number) for number in range(workers)]
        self._on_loop = not workers
        """Whether the event loop runs the graph now."""

        self._turning = False
        """Whether a turn of the event loop is due."""

        self._busy_since: list[float | None] = [None] * max(workers, 1)
        self._free_since = [0.0] * max(workers, 1)
        # Two fits: the time between two runs is spent per batch, however many runs of the graph that has.
        self._graph_cost = cost or Cost()
        self._batch_cost = copy(self._graph_cost)
        self._admission = Admission(self._queue, self._batch_cost, limits, queue_limit, self._busy_since)
        self.overload = Overload(
            self._hand_over if self._on_loop else None, partial(self._graph_cost.seconds, limits.tokens, 1)
        )
        # Without `self` in the closures: a cycle would keep the classifier until it is collected, which may be never.
        submissions, queue = self._open, self._queue
        metrics.inflight.set_function(lambda: sum(len(submission.texts) for submission in submissions))
        metrics.queue_depth.set_function(lambda: len(queue.items))

    def start(self) -> None:
        """Start the threads; submissions come from the running event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every thread runs and no run has taken too long."""
        oldest = min((since for since in self._busy_since if since is not None), default=math.inf)
        stalled = time.monotonic() - oldest > self._stall_seconds
        return not self._stopped and not stalled and all(thread.is_alive() for thread in self._threads)

    @property
    def open(self) -> int:
        """The number of requests that wait for their answers."""
        return len(self._open)

    def submit(
        self,
        texts: Sequence[str],
        done: Done,
        *,
        deadline: float | None = None,
        record_stage: RecordStage | None = None,
    ) -> Withdraw:
        """Queue texts, which are answered all or none; `done` is called later, once, unless they are withdrawn.

        `deadline` is a time of `time.monotonic()`. Raises OverloadedError when the answer would not be there in time,
        NotReadyError when the scheduler has ended. `done` may get DeadlineError when the answer was not there in time,
        InferenceFailedError when a text cannot be answered, NotReadyError when the scheduler ends.
        """
        if self._stopped:
            raise NotReadyError("the inference threads are gone; ask another replica")
        now = time.monotonic()
        submission = Submission(texts, done, math.inf if deadline is None else deadline, now, record_stage)
        items, tokens = [], 0
        for index, text in enumerate(texts):
            estimate = min(len(text) // CHARACTERS_PER_TOKEN + SPECIAL_TOKENS, self._max_tokens)
            items.append(Item(submission, index, estimate))
            tokens += estimate
        if deadline is not None or len(self._queue.items) + len(items) > self._admission.queue_limit:
            refusal = self._admission.refusal(len(items), tokens, submission.deadline, now)
            if refusal is not None:
                self.overload.note_refusal()
                raise OverloadedError(refusal.message, retry_after=refusal.retry_after)
        self._open.add(submission)
        with self._lock:
            self._queue.add(items, tokens)
            if not self._on_loop:
                self._work.notify(len(items))
        self._schedule_turn()
        return partial(self._close, submission)

    def refusal(self, seconds: float | None = None) -> Refusal | None:
        """Return why a text of average length is not answered within `seconds`, before any work is done for it.

        None when it will be.
        """
        waiting = len(self._queue.items)
        if not waiting:
            return None
        now = time.monotonic()
        deadline = math.inf if seconds is None else now + seconds
        refusal = self._admission.refusal(1, self._queue.tokens // waiting, deadline, now)
        if refusal is not None:
            self.overload.note_refusal()
        return refusal

    async def close(self) -> None:
        """End the threads after their current runs; open requests fail."""
        self._stop(NotReadyError("the service is stopping; ask another replica"))
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))

    def _close(self, submission: Submission) -> None:
        """Forget a submission; its waiting texts leave the queue."""
        if submission.settled:
            return
        submission.settled = True
        self._open.discard(submission)
        if len(submission.predictions) < len(submission.texts):
            with self._lock:
                self._queue.withdraw(submission)

    def _schedule_turn(self) -> None:
        """Let the event loop run the waiting texts, where that is its task."""
        if self._on_loop and not self._turning and self._queue.items and not self._stopped:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Run one batch on the event loop; requests that arrive meanwhile are read before the next."""
        self._turning = False
        if self._on_loop and self._queue.items and not self._stopped:
            self._admission.loop_busy_since = time.monotonic()
            try:
                with self._lock:
                    items = self._queue.take(self._limits, self._graph_cost.slack)
                result = self._run(items, 0)
            except BaseException as error:  # as where a thread ends: no client may be left waiting
                self._stop(_ended(error))
                raise
            self._settle(result)
        if not self._turning:
            self._admission.loop_busy_since = None

    def _hand_over(self, to_thread: bool) -> None:
        """Let a thread of low priority run the graph in the event loop's place, or the event loop again."""
        with self._lock:
            self._on_loop = not to_thread
            self._work.notify_all()
        if to_thread and not self._threads:
            self._threads.append(self._thread(0, low_priority=True))
            self._threads[0].start()
        self._schedule_turn()

    def _thread(self, number: int, *, low_priority: bool = False) -> Thread:
        return Thread(target=self._run_batches, args=(number, low_priority), name=f"inference-{number}", daemon=True)

    def _run_batches(self, number: int, low_priority: bool) -> None:
        """Run batches until the scheduler stops: the body of a thread."""
        if low_priority:
            lower_priority()
        try:
            while items := self._wait():
                self._loop.call_soon_threadsafe(self._settle, self._run(items, number))
                del items  # an idle thread keeps no text of its last batch
        except BaseException as error:  # no client may be left waiting
            self._loop.call_soon_threadsafe(self._stop, _ended(error))

    def _wait(self) -> list[Item]:
        """Wait for work and take the oldest items; return none when the scheduler stops."""
        with self._lock:
            while (self._on_loop or not self._queue.items) and not self._stopped:
                self._work.wait()
            return [] if self._stopped else self._queue.take(self._limits, self._graph_cost.slack)

    def _run(self, items: list[Item], number: int) -> BatchResult:
        """Tokenise `items`, run those that go together, and put the others back; `number` is that of the thread."""
        began = self._busy_since[number] = time.monotonic()
        batch = BatchResult(began)
        ready = self._encode(items, batch)
        for group in [ready] if len(ready) == 1 else self._group(ready):
            rows, started = [*map(_encoded, group)], time.monotonic()
            results: Sequence[TextResult]
            try:
                results = self._graph.run(rows)
            except BaseException as error:  # whatever it is, some of the rows cause it
                results = self._bisect(rows, _contained(error))
            batch.results += zip(group, results, strict=True)
            batch.graph_runs.append(GraphRun(group, time.monotonic() - started))
        ended = time.monotonic()
        batch.seconds = ended - began
        batch.occupied = ended - max(self._free_since[number], items[0].submission.submitted)
        self._free_since[number] = ended
        self._busy_since[number] = None
        return batch

    def _encode(self, items: list[Item], batch: BatchResult) -> list[Item]:
        """Tokenise items and return those to run. Late ones, and those that cannot be tokenised, get their results."""
        ready, due = [], 0.0
        for item in items:
            submission = item.submission
            if submission.settled:
                continue
            if submission.deadline != math.inf:
                due = due or batch.began + self._graph_cost.seconds(min(tokens_of(items), self._limits.tokens), 1)
                if due > submission.deadline:
                    batch.results.append((item, DeadlineError("the deadline would pass before the answer is there")))
                    continue
            if item.encoded is None:
                try:
                    item.encoded = self._graph.encode(submission.texts[item.index])
                except BaseException as error:  # whatever it is, this text causes it
                    batch.results.append((item, _contained(error)))
                    continue
                item.tokens = len(item.encoded.ids)
            ready.append(item)
        return ready

    def _group(self, ready: list[Item]) -> list[list[Item]]:
        """Split tokenised items into runs of the graph, and put back those that wait for another batch."""
        if not ready:
            return []
        slack = self._graph_cost.slack
        chosen, others = choose(ready, self._limits, slack)
        if others:
            with self._lock:
                others = [item for item in others if not item.submission.settled]
                self._queue.put_back(others)
                if not self._on_loop:
                    self._work.notify(len(others))
        return by_length(chosen, slack) if self._limits.packed else [chosen]

    def _bisect(self, rows: Sequence[Encoded], failure: Exception) -> list[TextResult]:
        """Answer rows, whose run failed, by halves, so that only the texts that cause it fail."""
        if len(rows) == 1:
            return [failure]
        half = len(rows) // 2
        results: list[TextResult] = []
        for part in (rows[:half], rows[half:]):
            try:
                results += self._graph.run(part)
            except BaseException as error:
                results += self._bisect(part, _contained(error))
        return results

    def _settle(self, batch: BatchResult) -> None:
        """Give the results of a batch to the requests, and defer counting them; on the event loop."""
        for item, result in batch.results:
            submission = item.submission
            if submission.record_stage is not None:
                submission.record_stage("queue", submission.submitted, batch.began)
                submission.record_stage("run", batch.began, batch.began + batch.seconds)
            if submission.settled:
                continue
            outcome: list[Prediction] | Exception
            if isinstance(result, Prediction):
                submission.predictions[item.index] = result
                count = len(submission.texts)
                if len(submission.predictions) < count:
                    continue
                outcome = [*map(submission.predictions.__getitem__, range(count))]
            elif isinstance(result, DeadlineError):
                outcome = result
            else:
                outcome = InferenceFailedError.of(item.index, len(submission.texts))
                outcome.__cause__ = result
            self._close(submission)
            submission.done(outcome)
        self._metrics.deferred.add(partial(self._count, batch))
        self._schedule_turn()

    def _count(self, batch: BatchResult) -> None:
        """Learn from a batch what the next will cost, and count it."""
        total = 0
        for items, seconds in batch.graph_runs:
            tokens = self._limits.paid(items)
            total += tokens
            self._graph_cost.learn(tokens, seconds)
            self._metrics.batch(len(items), tokens)
        if batch.graph_runs:
            self._batch_cost.learn(total, batch.occupied)
            self._metrics.run_seconds.observe(batch.seconds)
        for item, _ in batch.results:
            self._metrics.queue_seconds.observe(batch.began - item.submission.submitted)

    def _stop(self, failure: Exception) -> None:
        """End, and let every open request fail."""
        self.overload.close()
        with self._lock:
            self._stopped = True
            self._work.notify_all()
        for submission in list(self._open):
            self._close(submission)
            submission.done(failure)


def _contained(error: BaseException) -> Exception:
    """Return the error that texts fail with, for a panic of a library one of ours. Raises what must end the thread."""
    if isinstance(error, Exception):
        return error
    if is_panic(error):
        return InferenceError("a library panicked")
    raise error


def _ended(error: BaseException) -> InferenceFailedError:
    """Return the error of requests whose thread, or turn of the event loop, ended by `error`."""
    failure = InferenceFailedError("the inference ended by an error; the service needs a restart")
    failure.__cause__ = error
    return failure
