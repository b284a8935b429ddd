"""Bounded queues of texts, and what runs them: threads, or the event loop itself.

A free thread takes as many waiting texts as are worth a run and never waits for more to arrive. All results of its
batch go back to the event loop in one call, but for the texts that a stage of a cascade passes on, which are queued for
the next stage at once. One lock guards the queues; everything else belongs to the event loop.

Without threads the event loop reads every request that has arrived, runs one batch, answers it, and reads again. That
serves a graph that costs less than a thread hop, and a single core: there each arriving request would interrupt the
thread, and find the caches full of the model. Under overload a thread runs the graph there too; see `overload`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from functools import partial
from threading import Condition, Lock, Thread

from export.bundle.classifier import Prediction
from service.errors import DeadlineError, InferenceFailedError, NotReadyError, OverloadedError
from service.inference.admission import Admission
from service.inference.batching import CHARACTERS_PER_TOKEN, SPECIAL_TOKENS
from service.inference.overload import Overload
from service.inference.stage_runner import StageRunner, next_runner
from service.inference.types import BatchResult, Done, Item, RecordStage, Refusal, Submission, Withdraw
from service.process.priority import lower_priority
from service.telemetry.metrics import ModelMetrics

_JOIN_SECONDS = 5.0


class Scheduler:
    """Answers texts with `workers` threads, or for 0 on the event loop; at most `queue_limit` texts wait.

    `runners` are those of the stages of a cascade, the cheapest first, or the one of any other bundle. Beside threads
    the event loop runs the first `on_loop` stages. A run that takes longer than `stall_seconds` means that it hangs.
    """

    def __init__(
        self,
        runners: Sequence[StageRunner],
        metrics: ModelMetrics,
        *,
        workers: int,
        queue_limit: int,
        stall_seconds: float,
        on_loop: int = 0,
    ) -> None:
        self._metrics = metrics
        self._runners = runners
        self._first = runners[0]
        self._stall_seconds = stall_seconds
        self._lock = Lock()
        self._work = Condition(self._lock)
        self._open: set[Submission] = set()
        self._stopped = False
        self._threads = [self._thread(number) for number in range(workers)]
        first_of_threads = on_loop if workers else len(runners)
        self._on_loop, self._by_threads = runners[:first_of_threads], runners[first_of_threads:]
        """The stages that the event loop runs now, and those that threads run."""

        self._turning = False
        """Whether a turn of the event loop is due."""

        # One place for each thread, and one more for the event loop where it runs a graph beside them.
        self._busy_since: list[float | None] = [None] * max(workers + bool(self._on_loop), 1)
        self._free_since = [0.0] * len(self._busy_since)
        shared = [(runner, 1 if runner in self._on_loop else workers) for runner in runners]
        self._admission = Admission(shared, queue_limit, self._busy_since)
        self.overload = Overload(None if workers else self._hand_over, partial(_longest_run, runners))
        # Without `self` in the closures: a cycle would keep the classifier until it is collected, which may be never.
        submissions, queues = self._open, [runner.queue for runner in runners]
        metrics.inflight.set_function(lambda: sum(len(submission.texts) for submission in submissions))
        metrics.queue_depth.set_function(lambda: sum(len(queue.items) for queue in queues))

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
        items, tokens, first, waiting = [], 0, self._first, 0
        for index, text in enumerate(texts):
            estimate = min(len(text) // CHARACTERS_PER_TOKEN + SPECIAL_TOKENS, first.max_tokens)
            items.append(Item(submission, index, estimate, now))
            tokens += estimate
        for runner in self._runners:
            waiting += len(runner.queue.items)
        if deadline is not None or waiting + len(items) > self._admission.queue_limit:
            refusal = self._admission.refusal(len(items), tokens, submission.deadline, now)
            if refusal is not None:
                self.overload.note_refusal()
                raise OverloadedError(refusal.message, retry_after=refusal.retry_after)
        self._open.add(submission)
        with self._lock:
            first.queue.add(items, tokens)
            if not self._on_loop:
                self._work.notify(len(items))
        self._schedule_turn()
        return partial(self._close, submission)

    def refusal(self, seconds: float | None = None) -> Refusal | None:
        """Return why a text of average length is not answered within `seconds`, before any work is done for it.

        None when it will be.
        """
        if not self._admission.waiting:
            return None
        now = time.monotonic()
        deadline = math.inf if seconds is None else now + seconds
        refusal = self._admission.refusal(1, self._admission.mean_tokens, deadline, now)
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
                for runner in self._runners:
                    runner.queue.withdraw(submission)

    def _schedule_turn(self) -> None:
        """Let the event loop run the waiting texts, where that is its task."""
        if self._turning or self._stopped:
            return
        for runner in self._on_loop:
            if runner.queue.items:
                self._turning = True
                self._loop.call_soon(self._turn)
                return

    def _turn(self) -> None:
        """Run one batch on the event loop; requests that arrive meanwhile are read before the next."""
        self._turning = False
        if (runner := next_runner(self._on_loop)) is not None and not self._stopped:
            self._admission.loop_busy_since = time.monotonic()
            try:
                with self._lock:
                    items = runner.take()
                result = self._run(runner, items, len(self._busy_since) - 1)
            except BaseException as error:  # as where a thread ends: no client may be left waiting
                self._stop(_ended(error))
                raise
            self._settle(result)
        if not self._turning:
            self._admission.loop_busy_since = None

    def _hand_over(self, to_thread: bool) -> None:
        """Let a thread of low priority run the graphs in the event loop's place, or the event loop again."""
        with self._lock:
            none = self._runners[:0]
            self._on_loop, self._by_threads = (none, self._runners) if to_thread else (self._runners, none)
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
            while work := self._wait():
                self._loop.call_soon_threadsafe(self._settle, self._run(*work, number))
                del work  # an idle thread keeps no text of its last batch
        except BaseException as error:  # no client may be left waiting
            self._loop.call_soon_threadsafe(self._stop, _ended(error))

    def _wait(self) -> tuple[StageRunner, list[Item]] | None:
        """Wait for work and take the oldest items of a stage; return None when the scheduler stops."""
        with self._lock:
            while (runner := next_runner(self._by_threads)) is None and not self._stopped:
                self._work.wait()
            return None if runner is None or self._stopped else (runner, runner.take())

    def _run(self, runner: StageRunner, items: list[Item], number: int) -> BatchResult:
        """Run `items` of a stage, and queue those that it passes on; `number` is that of the thread."""
        self._busy_since[number] = time.monotonic()
        batch = runner.run(items, self._put_back)
        ended = batch.began + batch.seconds
        batch.occupied = ended - max(self._free_since[number], items[0].since)
        self._free_since[number] = ended
        if batch.passed:
            self._pass_on(batch, ended)
        self._busy_since[number] = None
        return batch

    def _put_back(self, runner: StageRunner, items: list[Item]) -> None:
        """Return items to the queue of their stage; they wait for another batch."""
        with self._lock:
            items = [item for item in items if not item.submission.settled]
            runner.queue.put_back(items)
            self._notify(runner, len(items))

    def _pass_on(self, batch: BatchResult, now: float) -> None:
        """Queue the items of a batch that the next stage answers."""
        following = self._runners[batch.place + 1]
        with self._lock:
            items = [item for item, _ in batch.passed if not item.submission.settled]
            following.receive(items, now)
            self._notify(following, len(items))

    def _notify(self, runner: StageRunner, count: int) -> None:
        """Wake up to `count` idle threads, where threads run this stage; the lock must be held."""
        if runner in self._by_threads:
            self._work.notify(count)

    def _settle(self, batch: BatchResult) -> None:
        """Give the results of a batch to the requests, and defer counting them; on the event loop."""
        for item, since in batch.passed:
            _record(item.submission, since, batch)
        for item, result in batch.results:
            submission = item.submission
            if submission.record_stage is not None:
                _record(submission, item.since, batch)
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
        for (items, _), tokens in zip(batch.graph_runs, self._runners[batch.place].learn(batch), strict=True):
            self._metrics.batch(len(items), tokens)
        if batch.graph_runs:
            self._metrics.run_seconds.observe(batch.seconds)
        self._metrics.stage(batch.place, batch.seconds)
        for item, _ in batch.results:
            self._metrics.queue_seconds.observe(batch.began - item.since)
        for _, since in batch.passed:
            self._metrics.queue_seconds.observe(batch.began - since)

    def _stop(self, failure: Exception) -> None:
        """End, and let every open request fail."""
        self.overload.close()
        with self._lock:
            self._stopped = True
            self._work.notify_all()
        for submission in list(self._open):
            self._close(submission)
            submission.done(failure)


def _record(submission: Submission, since: float, batch: BatchResult) -> None:
    """Record what a text that waited `since` then went through in a batch, if its request is traced."""
    if submission.record_stage is not None:
        submission.record_stage("queue", since, batch.began)
        submission.record_stage("run", batch.began, batch.began + batch.seconds)


def _longest_run(runners: Sequence[StageRunner]) -> float:
    """Predict the duration of the longest full run of any stage."""
    return max(runner.graph_cost.seconds(runner.limits.tokens, 1) for runner in runners)


def _ended(error: BaseException) -> InferenceFailedError:
    """Return the error of requests whose thread, or turn of the event loop, ended by `error`."""
    failure = InferenceFailedError("the inference ended by an error; the service needs a restart")
    failure.__cause__ = error
    return failure
