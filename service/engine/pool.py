"""Inference threads behind a bounded queue. The event loop admits and answers; it never runs a graph.

Each text is a job of its own: a request's texts spread over the threads, and none shares a batch with another's. All
counting is done on the event loop, so there is no lock but the queue's.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

from export.runtime import Prediction
from service.errors import InferenceFailedError, NotReadyError, OverloadedError
from service.metrics import Metrics

_SMOOTHING = 0.05
_JOIN_SECONDS = 5.0


class Classifies(Protocol):
    """What the pool runs: something that answers one text and that threads may share."""

    def classify(self, text: str) -> Prediction:
        """Answer one text, or raise."""


@dataclass(slots=True, eq=False)
class _Request:
    """The texts of one request and what is known of their answers."""

    texts: Sequence[str]
    answer: asyncio.Future[list[Prediction]]
    predictions: dict[int, Prediction] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Job:
    request: _Request
    index: int
    submitted: float


class Pool:
    """`workers` threads that run one text at a time, and at most `queue_limit` texts waiting for them."""

    def __init__(
        self, classifier: Classifies, metrics: Metrics, *, workers: int, queue_limit: int, stall_seconds: float
    ) -> None:
        self._classifier = classifier
        self._metrics = metrics
        self._queue_limit = queue_limit
        self._stall_seconds = stall_seconds
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._work, args=(number,), name=f"inference-{number}", daemon=True)
            for number in range(workers)
        ]
        self._busy_since: list[float | None] = [None] * workers
        self._open: set[_Request] = set()
        self._inflight = 0
        self._seconds_per_text = 0.0
        self._stopped = False
        metrics.inflight.set_function(lambda: self._inflight)
        metrics.queue_depth.set_function(self._queue.qsize)

    def start(self) -> None:
        """Start the threads; they answer to the running event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every thread runs and none has been on one text for too long."""
        oldest = min((since for since in self._busy_since if since is not None), default=math.inf)
        stalled = time.perf_counter() - oldest > self._stall_seconds
        return not self._stopped and not stalled and all(thread.is_alive() for thread in self._threads)

    async def classify(self, texts: Sequence[str]) -> list[Prediction]:
        """Answer all texts, in order, or none of them.

        Raises OverloadedError when they do not all fit into the queue, InferenceFailedError when one cannot be
        answered, and NotReadyError when the threads are gone. Cancelling drops the texts that wait.
        """
        self._admit(len(texts))
        request = _Request(texts, self._loop.create_future())
        self._open.add(request)
        self._inflight += len(texts)
        now = time.perf_counter()
        for index in range(len(texts)):
            self._queue.put(_Job(request, index, now))
        try:
            return await request.answer
        finally:
            self._open.discard(request)

    async def close(self) -> None:
        """End the threads after the text that each is on; requests still open fail."""
        self._stop(NotReadyError("the service is stopping; ask another replica"))
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.perf_counter() + _JOIN_SECONDS
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.perf_counter()))

    def _admit(self, count: int) -> None:
        if self._stopped:
            raise NotReadyError("the inference threads are gone; ask another replica")
        # Only the event loop adds to the queue, so what fits now still fits when it is put.
        waiting = self._queue.qsize()
        if waiting + count > self._queue_limit:
            seconds = max(1, math.ceil(self._inflight * self._seconds_per_text / len(self._threads)))
            raise OverloadedError(
                f"{waiting} texts are waiting and {count} more exceed the limit of {self._queue_limit}; "
                f"try again in {seconds} s",
                retry_after=seconds,
            )

    def _work(self, number: int) -> None:
        try:
            while (job := self._queue.get()) is not None:
                started = self._busy_since[number] = time.perf_counter()
                outcome = self._run(job)
                self._busy_since[number] = None
                elapsed = time.perf_counter() - started
                self._loop.call_soon_threadsafe(self._settle, job, outcome, started - job.submitted, elapsed)
        except BaseException as error:  # a thread that ends unasked must not leave clients waiting
            failure = InferenceFailedError("an inference thread ended; the service needs a restart")
            failure.__cause__ = error
            self._loop.call_soon_threadsafe(self._stop, failure)

    def _run(self, job: _Job) -> Prediction | Exception | None:
        """Return the answer to a text, what went wrong, or None when nobody waits for it any more."""
        if job.request.answer.done():
            return None
        try:
            return self._classifier.classify(job.request.texts[job.index])
        except Exception as error:  # whatever it is, it concerns one request alone
            return error

    def _settle(self, job: _Job, outcome: Prediction | Exception | None, queued: float, ran: float) -> None:
        self._inflight -= 1
        if outcome is None:
            return
        self._metrics.queue_seconds.observe(queued)
        self._metrics.run_seconds.observe(ran)
        self._seconds_per_text += _SMOOTHING * (ran - self._seconds_per_text)
        request = job.request
        if request.answer.done():
            return
        if isinstance(outcome, Exception):
            failure = InferenceFailedError(f"text {job.index + 1} of {len(request.texts)} could not be classified")
            failure.__cause__ = outcome
            request.answer.set_exception(failure)
            return
        request.predictions[job.index] = outcome
        if len(request.predictions) == len(request.texts):
            request.answer.set_result([request.predictions[index] for index in range(len(request.texts))])

    def _stop(self, failure: Exception) -> None:
        self._stopped = True
        for request in self._open:
            if not request.answer.done():
                request.answer.set_exception(failure)
