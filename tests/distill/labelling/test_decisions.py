"""500 queries labelled by a decision model; the run is killed in the middle, and resumed."""

from __future__ import annotations

import asyncio
import csv
import inspect
import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from distill.labelling.soft_labels import SoftLabels
from distill.run import LABELS, Run
from distill.task import load_task
from tests.support.decision_server import DecisionServer
from tests.support.http_server import Handler, serving
from tests.support.waiting import until

ROOT = Path(__file__).parents[3]
BANKING77 = ROOT.parent / "shared" / "data" / "banking77" / "train.csv"
POOL, TEST = 450, 50
FREE = 200
AT_ONCE = 8
PROBES = 3

pytestmark = pytest.mark.skipif(not BANKING77.exists(), reason="needs ../shared/data/banking77")


@dataclass
class Stalling:
    """Passes requests to a server, and gives no answer to any after the first `free`, until `released`.

    `texts` has what was asked about and answered, `stated` the probabilities in the last answer to each text.
    """

    server: Handler
    free: int
    begun: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)
    texts: list[str] = field(default_factory=list)
    stated: dict[str, dict[str, float]] = field(default_factory=dict)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.begun += 1
        if self.begun > self.free:
            await self.released.wait()
        response = self.server(request)
        response = await response if inspect.isawaitable(response) else response
        body, answers = json.loads(request.content), response.json()["answers"]
        text = body["input"] if "input" in body else body["state"]
        p = answers[0]["probabilities"] if isinstance(answers, list) else answers["label"]["probabilities"]
        self.texts.append(text)
        self.stated[text] = {one["value"]: one["probability"] for one in p} if isinstance(p, list) else p
        return response


@contextmanager
def jevcompat() -> Iterator[Handler]:
    """The server of the System One format that the package jevcompat holds, which is somebody else's, as a handler."""
    mock = pytest.importorskip("jevcompat.mock", reason="needs jevcompat, of the extra dev")
    with mock.Running() as running, httpx.Client(base_url=running.url) as client:

        def forward(request: httpx.Request) -> httpx.Response:
            return client.post(request.url.path, content=request.content, headers={"content-type": "application/json"})

        yield forward


def write_task(folder: Path, url: str, dialect: str) -> list[str]:
    """Write a task of 500 texts of Banking77, spread over its classes. Returns the texts."""
    with BANKING77.open(newline="") as file:
        rows = list(csv.DictReader(file))[::20][: POOL + TEST]
    labels = sorted({row["category"] for row in rows})
    for name, part in (("train", rows[:POOL]), ("test", rows[POOL:])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["text"], *([row["text"]] for row in part)])
    teacher = {"kind": "decisions", "dialect": dialect, "base_url": f"{url}/v1", "model": "jev-latest"}
    more = {"concurrency": AT_ONCE, "usd_per_million": {"input": 0.1, "output": 0}}
    task = {
        "name": "job",
        "labels": labels,
        "data": {"train": {"path": "train.csv"}, "test": {"path": "test.csv"}, "near_duplicate": 1.0},
        "teacher": {**teacher, **more, "prompt": {"instructions": "What does the customer want?"}},
        "students": {"none": {"family": "static", "model": "package:none"}},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    return [row["text"] for row in rows]


async def label(folder: Path) -> asyncio.subprocess.Process:
    """Start `reflux label` in a process of its own."""
    command = (sys.executable, "-m", "reflux", "label", "task.yaml", "--output", "run", "--max-usd", "1")
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=quiet, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )


def on_disk(folder: Path) -> int:
    """How many responses the run has stored, those to the probes included."""
    if not (folder / "run" / "answers.sqlite").exists():
        return 0
    with closing(sqlite3.connect(folder / "run" / "answers.sqlite")) as reader:
        return int(reader.execute("SELECT count(*) FROM calls WHERE cost_usd > 0").fetchone()[0])


def labels_of(folder: Path) -> SoftLabels:
    """Read the labels of the finished run."""
    return SoftLabels.read(Run(load_task(folder / "task.yaml"), folder / "run").labels.require("label") / LABELS)


@pytest.mark.parametrize(
    ("dialect", "made"),
    [("openai", lambda: nullcontext(DecisionServer())), ("systemone", jevcompat)],
    ids=["types of the SDK", "jevcompat"],
)
async def test_a_killed_run_is_resumed_and_no_text_is_asked_twice(tmp_path, dialect, made) -> None:
    with made() as teacher:
        await kill_and_resume(tmp_path, dialect, Stalling(teacher, PROBES + FREE))


async def kill_and_resume(tmp_path: Path, dialect: str, teacher: Stalling) -> None:
    async with serving(teacher) as server:
        texts = write_task(tmp_path, server.url, dialect)
        first = await label(tmp_path)
        await until(lambda: teacher.begun > PROBES + FREE, patience=120)
        await until(lambda: on_disk(tmp_path) == PROBES + FREE)
        first.send_signal(signal.SIGKILL)
        await first.communicate()
        answered = teacher.texts[PROBES:]
        teacher.released.set()
        await server.idle()
        teacher.free = sys.maxsize
        lost = len(teacher.texts) - PROBES - FREE  # nobody read their answers

        del teacher.texts[:]
        second = await label(tmp_path)
        _, said = await second.communicate()
        assert second.returncode == 0, said.decode()
    assert len(set(answered)) == FREE
    assert lost <= AT_ONCE
    assert not set(answered) & set(teacher.texts)
    assert Counter(answered + teacher.texts) == Counter(texts)  # not even the probes are asked again

    soft = labels_of(tmp_path)
    assert sorted(soft.texts) == sorted(texts)
    assert set(soft.methods) == {"decisions"}
    stated: list[Any] = [[teacher.stated[text][one] for one in soft.labels] for text in soft.texts]
    np.testing.assert_allclose(soft.probabilities, stated, atol=1e-6)
