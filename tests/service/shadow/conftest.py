"""A shadow pipeline for a student of three labels without a graph, and a teacher that answers as a test says."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from distill.teachers import Answer
from export.bundle.classifier import Prediction
from export.bundle.format import Bundle, Manifest
from export.bundle.reference import Reference
from service.shadow import teacher as shadow_teacher
from service.shadow.outcome import OUTCOMES
from service.shadow.pipeline import ShadowPipeline
from service.shadow.settings import ShadowSettings
from tests.support.waiting import until

LABELS = ("billing", "shipping", "account")
VERSION = "0123456789ab"

REFERENCE = Reference(
    confidence=np.array([0.4, 0.6, 0.9, 0.99, 1.0]),
    disagreement=np.array([0.5, 0.35, 0.08, 0.01, 0.001]),
    edges=np.array([0.004, 0.02, 0.1, 0.3]),
    share=np.array([0.3, 0.3, 0.2, 0.1, 0.1]),
    spread=np.array([0.04, 0.1, 0.25, 0.4, 0.48]),
    null=np.array([0.01, 0.03, 0.12, 0.35, 0.55]),
    rows=np.array([300.0, 300.0, 200.0, 100.0, 100.0]),
    disagreements=np.array([0.0, 3.0, 12.0, 20.0, 40.0]),
)

Reply = Callable[[Sequence[str]], Awaitable[Any]]


def prediction(label: str = "billing", top: float = 0.97) -> Prediction:
    """Return a student's answer that gives `label` the probability `top`."""
    probabilities = np.full(len(LABELS), (1 - top) / (len(LABELS) - 1), dtype=np.float32)
    probabilities[LABELS.index(label)] = top
    best = int(probabilities.argmax())
    score = float(probabilities[best])
    return Prediction(probabilities, np.log(probabilities), np.zeros(2, dtype=np.float32), 3, False, best, score)


def answer(label: str = "billing", **values: Any) -> Answer:
    """Return a teacher's answer that is nearly sure of `label`."""
    return Answer(prediction(label, 0.98).probabilities, "local", **values)


class PlayedTeacher:
    """Answers as `reply` does, and records the texts in `asked`."""

    config_type: Any = None
    origin: tuple[str, str] | None = None
    batch_size = 1
    concurrency = 256

    def __init__(
        self, reply: Reply | None = None, *, labels: Sequence[str] = LABELS, name: str = "played", version: str = "1"
    ) -> None:
        self.name, self.version, self.labels = name, version, tuple(labels)
        self.reply = reply or agree
        self.asked: list[str] = []
        self.closed = False

    @classmethod
    def from_config(cls, config: Any, labels: Sequence[str], account: Any = None) -> PlayedTeacher:
        raise AssertionError("a played teacher is handed over, never configured")

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Any:
        self.asked += texts
        return await self.reply(texts)

    async def aclose(self) -> None:
        self.closed = True


async def agree(texts: Sequence[str]) -> list[Answer]:
    return [answer("billing")]


async def disagree(texts: Sequence[str]) -> list[Answer]:
    return [answer("shipping")]


async def hang(texts: Sequence[str]) -> list[Answer]:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


class Shadow:
    """A pipeline, with what a test needs to observe it."""

    def __init__(
        self,
        settings: ShadowSettings,
        teacher: PlayedTeacher,
        version: str,
        random: Random | None,
        calibration: dict[str, Any] | None = None,
    ) -> None:
        self.settings, self.teacher, self.version = settings, teacher, version
        self.registry = CollectorRegistry()
        learned_from = {"name": teacher.name, **({"calibration": calibration} if calibration else {})}
        manifest = Manifest("tiny", "tiny", LABELS, 32, "fp32", 1.0, {}, version, teacher=learned_from)
        self.pipeline = ShadowPipeline(settings, Bundle(Path(), manifest), REFERENCE, self.registry, random=random)
        self.count = 0

    def observe(self, count: int = 1, *, text: str | None = None, label: str = "billing", top: float = 0.97) -> None:
        for _ in range(count):
            self.count += 1
            self.pipeline.observe(text or f"text {self.count}", prediction(label, top))

    async def start(self) -> Shadow:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shadow_teacher, "create", lambda config, labels, **_: self.teacher)
            await self.pipeline.start()
        return self

    async def process(self, count: int = 1, **answered: Any) -> None:
        """Observe `count` texts and wait for their outcomes."""
        self.observe(count, **answered)
        await self.settled()

    async def settled(self) -> None:
        """Wait until every sampled text has its outcome, and check that none is unaccounted for."""
        ledger = self.pipeline._ledger  # the same counts as the metrics', but cheaper to read
        await until(lambda: ledger.queued + sum(ledger.in_flight) == 0)
        assert self.unaccounted() == 0

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum over all samples `reflux_<name>` with these labels."""
        return sum(
            sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"reflux_{name}" and labels.items() <= sample.labels.items()
        )

    def outcomes(self) -> dict[str, int]:
        """Return the outcomes of this process that are not zero."""
        found = {str(outcome): int(self.metric("shadow_results_total", outcome=outcome)) for outcome in OUTCOMES}
        return {outcome: count for outcome, count in found.items() if count}

    def unaccounted(self) -> float:
        """Return the difference that conservation says is zero."""
        came = self.metric("shadow_sampled_total") + self.metric("shadow_resumed_total")
        ended = self.metric("shadow_results_total") + self.metric("shadow_handed_over_total")
        return came - ended - self.metric("shadow_queue_depth") - self.metric("shadow_inflight")

    def rows(self, columns: str = "*") -> list[tuple[Any, ...]]:
        """Return the rows on disk, read as another program would."""
        connection = sqlite3.connect(f"file:{self.settings.path}?mode=ro", uri=True)
        try:
            return connection.execute(f"SELECT {columns} FROM rows ORDER BY seq").fetchall()
        finally:
            connection.close()


MakeShadow = Callable[..., Shadow]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory, in memory if possible: these tests do not test the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)


@pytest.fixture
async def make_shadow(directory: Path) -> AsyncIterator[MakeShadow]:
    """`make_shadow(teacher or reply, version=, random=, calibration=, **settings)` samples everything."""
    made: list[Shadow] = []

    def make(
        played: PlayedTeacher | Reply | None = None,
        *,
        version: str = VERSION,
        random: Random | None = None,
        calibration: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Shadow:
        defaults = {
            "enabled": True,
            "teacher": {"kind": "played"},
            "rate": 1.0,
            "path": directory / "shadow.sqlite",
            "flush_seconds": 0.005,
            "retry_seconds": 0.0,
            "stop_seconds": 5.0,
        }
        teacher = played if isinstance(played, PlayedTeacher) else PlayedTeacher(played)
        made.append(Shadow(ShadowSettings(**(defaults | settings)), teacher, version, random, calibration))
        return made[-1]

    yield make
    for shadow in made:
        await shadow.pipeline.stop()
