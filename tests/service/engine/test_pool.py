"""The threads answer each request whole or not at all, and one request's trouble is nobody else's."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from export.runtime import Prediction
from service.engine.pool import Pool
from service.errors import InferenceFailedError, NotReadyError, OverloadedError
from service.metrics import Metrics


class Gated:
    """Answers a text of n letters with n tokens, each only once the gate is open."""

    def __init__(self):
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self.seen = []

    def classify(self, text):
        self.seen.append(text)
        self.begun.release()
        assert self.gate.wait(30)
        if text == "fail":
            raise ValueError(text)
        if text == "die":
            raise SystemExit
        one = np.ones(1, dtype=np.float32)
        return Prediction(one, one, one, len(text), False)


class Bench:
    """A pool of one thread with its classifier and metrics."""

    def __init__(self, workers=1, queue_limit=4):
        self.metrics = Metrics()
        self.classifier = Gated()
        self.pool = Pool(self.classifier, self.metrics, workers=workers, queue_limit=queue_limit, stall_seconds=60)

    def ask(self, *texts):
        return asyncio.create_task(self.pool.classify(texts))

    async def begun(self):
        """Wait until a thread is on one more text."""
        assert await asyncio.to_thread(self.classifier.begun.acquire, timeout=30)

    def gauge(self, name):
        return self.metrics.registry.get_sample_value(f"reflux_{name}")


@pytest.fixture
async def bench():
    bench = Bench()
    bench.pool.start()
    yield bench
    bench.classifier.gate.set()
    await bench.pool.close()


async def tokens(task):
    return [prediction.tokens for prediction in await task]


async def test_texts_are_answered_in_order_whatever_thread_ran_them():
    bench = Bench(workers=3, queue_limit=100)
    bench.pool.start()
    bench.classifier.gate.set()
    requests = [bench.ask(*("x" * (1 + (start + n) % 17) for n in range(10))) for start in range(10)]
    for start, request in enumerate(requests):
        assert await tokens(request) == [1 + (start + n) % 17 for n in range(10)]
    await bench.pool.close()


async def test_the_queue_takes_what_fits_and_refuses_a_whole_request_that_does_not(bench):
    running = bench.ask("a")
    await bench.begun()
    waiting = bench.ask("b", "c", "d")
    await asyncio.sleep(0)
    assert (bench.gauge("queue_depth"), bench.gauge("inference_inflight")) == (3, 4)
    with pytest.raises(OverloadedError) as refused:
        await bench.pool.classify(["e", "f"])
    assert int(refused.value.headers["retry-after"]) >= 1
    assert (bench.gauge("queue_depth"), bench.gauge("inference_inflight")) == (3, 4)
    last = bench.ask("g")
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await bench.pool.classify(["h"])
    bench.classifier.gate.set()
    assert [await tokens(task) for task in (running, waiting, last)] == [[1], [1, 1, 1], [1]]
    assert bench.classifier.seen == ["a", "b", "c", "d", "g"]
    assert (bench.gauge("queue_depth"), bench.gauge("inference_inflight")) == (0, 0)


async def test_a_cancelled_request_runs_no_further_and_breaks_no_other(bench):
    first, second, third = bench.ask("a"), bench.ask("b", "c"), bench.ask("d")
    await bench.begun()
    first.cancel()
    second.cancel()
    bench.classifier.gate.set()
    assert await tokens(third) == [1]
    assert bench.classifier.seen == ["a", "d"]
    assert bench.gauge("inference_inflight") == 0


async def test_a_text_that_fails_fails_its_request_alone(bench):
    before = bench.ask("a")
    await bench.begun()
    failing, after = bench.ask("b", "fail", "c"), bench.ask("d")
    await asyncio.sleep(0)
    bench.classifier.gate.set()
    with pytest.raises(InferenceFailedError, match="text 2 of 3") as failure:
        await failing
    assert isinstance(failure.value.__cause__, ValueError)
    assert await tokens(before) == await tokens(after) == [1]
    assert bench.pool.alive


async def test_a_thread_that_dies_fails_whoever_waits_and_whoever_comes(bench):
    dying, waiting = bench.ask("die"), bench.ask("a")
    await bench.begun()
    assert bench.pool.alive
    bench.classifier.gate.set()
    for request in (dying, waiting):
        with pytest.raises(InferenceFailedError, match="restart"):
            await request
    assert not bench.pool.alive
    with pytest.raises(NotReadyError):
        await bench.pool.classify(["b"])


async def test_closing_fails_what_is_open_and_ends_the_threads(bench):
    running, waiting = bench.ask("a"), bench.ask("b")
    await bench.begun()
    closing = asyncio.create_task(bench.pool.close())
    for request in (running, waiting):
        with pytest.raises(NotReadyError):
            await request
    bench.classifier.gate.set()
    await closing
    assert not bench.pool.alive
    assert bench.classifier.seen == ["a"]


async def test_retry_after_follows_how_long_texts_take(bench):
    bench.pool._seconds_per_text = 2.0
    requests = [bench.ask("a")]
    await bench.begun()
    requests.append(bench.ask("b", "c", "d", "e"))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as refused:
        await bench.pool.classify(["f"])
    assert refused.value.headers["retry-after"] == "10"
    bench.classifier.gate.set()
    await asyncio.gather(*requests)


async def test_a_pool_that_did_not_start_is_not_alive():
    assert not Bench().pool.alive
