"""A scheduler whose graph, costs and clock the test controls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from export.bundle.classifier import Encoded, Prediction
from export.bundle.format import Manifest
from service.errors import OverloadedError
from service.inference.batching import Limits
from service.inference.cost_model import Cost
from service.inference.disconnects import await_answer
from service.inference.scheduler import Scheduler
from service.inference.stage_runner import StageRunner
from service.telemetry.metrics import ModelMetrics
from tests.support import waiting
from tests.support.waiting import PATIENCE

MANIFEST = Manifest(
    name="tiny", family="tiny", labels=("a", "b"), max_tokens=32, variant="fp32", temperature=1.0, files={}
)
WIDE = Limits(tokens=100_000)
MUCH = 1e9


class Graph:
    """Answers a text with its own letters once the gate is open. It records its runs and their threads.

    Its score is 0.0 for a text that has the letter `unsure`, else 1.0.
    """

    packed = False

    def __init__(self, unsure: str | None = None) -> None:
        self._unsure = unsure
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self.encoded: list[str] = []
        self.runs: list[list[str]] = []
        self.ran_by: list[str] = []

    def encode(self, text: str) -> Encoded:
        self.encoded.append(text)
        if "unreadable" in text:
            raise ValueError(text)
        return Encoded([ord(letter) for letter in text], False)

    def run(self, rows: Sequence[Encoded]) -> list[Prediction]:
        texts = ["".join(map(chr, row.ids)) for row in rows]
        self.runs.append(texts)
        self.ran_by.append(threading.current_thread().name)
        self.begun.release()
        assert self.gate.wait(PATIENCE)
        if "die" in texts:
            raise SystemExit
        if any("poison" in text for text in texts):
            raise ValueError("poison")
        one = np.ones(1, dtype=np.float32)
        scores = [float(self._unsure is None or self._unsure not in text) for text in texts]
        return [
            Prediction(one, one, np.array(row.ids, dtype=np.float32), len(row.ids), False, 0, score)
            for row, score in zip(rows, scores, strict=True)
        ]


def said(predictions: Any) -> list[str]:
    """Return the texts that these predictions answer."""
    return ["".join(chr(int(letter)) for letter in prediction.embedding) for prediction in predictions]


class Known(Cost):
    """The given costs, which no run changes."""

    def __init__(self, *, run: float = 0.0, token: float = 0.0, slack: float = MUCH) -> None:
        super().__init__()
        self._given, self.slack = (token, run), slack

    def learn(self, tokens: int, seconds: float) -> None:
        self.runs += 1

    def seconds(self, tokens: float, runs: float) -> float:
        return self._given[0] * tokens + self._given[1] * runs


class Bench:
    """A scheduler with its graph and its metrics. `later` are the stages after the first of a cascade."""

    def __init__(
        self,
        graph: Any = None,
        *,
        workers: int = 1,
        limits: Limits = WIDE,
        queue_limit: int = 1000,
        cost: Cost | None = None,
        manifest: Manifest = MANIFEST,
        later: Sequence[StageRunner] = (),
        on_loop: int = 0,
    ) -> None:
        self.registry = CollectorRegistry()
        self.graph: Any = graph or Graph()
        self.workers = workers
        self.cost = cost or Known()
        self.metrics = ModelMetrics(self.registry, manifest, "stable")
        cut_off = 0.5 if later else None
        first = StageRunner(self.graph, limits=limits, max_tokens=MANIFEST.max_tokens, cost=self.cost, cut_off=cut_off)
        self.scheduler = Scheduler(
            [first, *later],
            self.metrics,
            workers=workers,
            on_loop=on_loop,
            queue_limit=queue_limit,
            stall_seconds=60,
        )

    async def classify(self, *texts: str, leaving: Any = None, **options: Any) -> list[Prediction]:
        return await await_answer(lambda done: self.scheduler.submit(texts, done, **options), leaving)

    def ask(self, *texts: str, **options: Any) -> asyncio.Task[list[Prediction]]:
        """Classify texts in a task."""
        return asyncio.create_task(self.classify(*texts, **options))

    async def together(self, *requests: Sequence[str]) -> list[list[str] | BaseException]:
        """Let requests arrive before the next run begins; return the texts or the error that each is answered with.

        The run that keeps a thread busy until then is not among the `runs` of the graph afterwards.
        """
        held = [await self.hold()] if self.workers else []
        tasks = [self.ask(*texts) for texts in requests]
        await asyncio.sleep(0)
        self.graph.gate.set()
        outcomes = await asyncio.gather(*held, *tasks, return_exceptions=True)
        del self.graph.runs[: len(held)]
        return [one if isinstance(one, BaseException) else said(one) for one in outcomes[len(held) :]]

    def submit(self, *texts: str, **options: Any) -> tuple[list[Any], Callable[[], None]]:
        """Submit texts; return what `done` was called with, each time, and what withdraws them."""
        told: list[Any] = []
        return told, self.scheduler.submit(texts, told.append, **options)

    async def begun(self) -> None:
        """Wait until one more run has begun."""
        assert await asyncio.to_thread(self.graph.begun.acquire, timeout=PATIENCE)

    async def hold(self) -> asyncio.Task[list[Prediction]]:
        """Keep a thread busy until the gate opens."""
        held = self.ask("held")
        await self.begun()
        return held

    def gauge(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"reflux_{name}")

    async def refused(self, *texts: str, message: str | None = None, **options: Any) -> int:
        """Check that texts are refused; return the seconds after which to try again."""
        with pytest.raises(OverloadedError, match=message) as refused:
            await self.classify(*texts, **options)
        return int(refused.value.headers["retry-after"])

    @property
    def load(self) -> tuple[float | None, float | None]:
        """The texts that wait for a run, and those without an answer."""
        return self.gauge("queue_depth"), self.gauge("inference_inflight")

    async def close(self) -> None:
        if isinstance(self.graph, Graph):
            self.graph.gate.set()
        await self.scheduler.close()


def stop_clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Let schedulers see the time `now` of what this returns; `pauses` are the seconds that they slept."""
    clock = SimpleNamespace(now=1000.0, pauses=[])
    time = SimpleNamespace(monotonic=lambda: clock.now, sleep=clock.pauses.append)
    for module in ("scheduler", "stage_runner", "overload"):
        monkeypatch.setattr(f"service.inference.{module}.time", time)
    return clock


async def until(condition: Callable[[], object]) -> None:
    """Wait until the scheduler has done something, and look at each turn of the event loop whether it has."""
    await waiting.until(condition, pause=0)
