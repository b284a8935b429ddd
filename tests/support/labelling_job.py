"""A labelling job whose teacher is a chat API that charges for each call that begins."""

from __future__ import annotations

import asyncio
import csv
import json
import math
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from distill.labelling.answer_store import text_key
from distill.labelling.soft_labels import SoftLabels
from distill.run import LABELS, Run
from distill.task import load_task
from distill.teachers.api.pricing import Price, Usage

NAMES = ("billing", "refund", "shipping")
PRICE = Price(input=1.0, output=4.0)
PROBES = 3
"""Calls that a teacher makes before it is asked for the first text."""


async def at_once(text: str) -> None:
    """Answer without waiting."""


class Hold:
    """Keeps the calls of texts from the pool waiting, after the first `free` calls in all, until `released` is set."""

    def __init__(self, free: int = PROBES) -> None:
        self.free, self.calls = free, 0
        self.released = asyncio.Event()

    async def __call__(self, text: str) -> None:
        self.calls += 1
        if self.calls > self.free:
            await self.released.wait()


def right(text: str) -> str:
    """Return the label that `ChargingApi` gives a text."""
    return NAMES[int(text_key(text), 16) % len(NAMES)]


@dataclass
class ChargingApi:
    """OpenAI's chat API as a handler. A call is charged when it begins, and answered when `wait(text)` returns.

    A call costs a token for each byte of it, less up to `spread`. For the texts in `refused` the key is wrong. `asked`
    has the text of each call that began, `usd` what all of them cost.
    """

    wait: Callable[[str], Awaitable[None]] = at_once
    spread: int = 8
    refused: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    usd: float = 0.0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        text = text_of(request)
        tokens = len(request.content) - int(text_key(text), 16) % self.spread
        if text not in self.refused:
            self.usd += PRICE.cost(Usage(input=tokens, output=1))
        self.asked.append(text)
        await self.wait(text)
        if text in self.refused:
            return httpx.Response(401, json={"error": {"message": "no"}})
        return httpx.Response(200, json=_completion(body, text, tokens))


def text_of(request: httpx.Request) -> str:
    """Return the text that a chat asks about."""
    content: str = json.loads(request.content)["messages"][-1]["content"]
    return content.splitlines()[1]


def _completion(body: dict[str, Any], text: str, tokens: int) -> dict[str, Any]:
    listing = body["messages"][0]["content"].splitlines()
    code_of = {line[3:]: line[0] for line in listing if line[1:3] == ": "}
    top = [{"token": code_of[right(text)], "logprob": math.log(0.9)}, {"token": "The", "logprob": math.log(0.05)}]
    message = {"role": "assistant", "content": top[0]["token"]}
    logprobs = {"content": [{**top[0], "top_logprobs": top}]}
    return {
        "model": body["model"],
        "choices": [{"message": message, "logprobs": logprobs, "finish_reason": "length"}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1},
    }


@dataclass
class LabellingJob:
    """A task file, the folder `root` that its run is in, and the `texts` to label."""

    file: Path
    root: Path
    texts: list[str]

    @classmethod
    def write(cls, folder: Path, url: str, *, pool: int, test: int, **teacher: Any) -> Self:
        """Write a task of `pool` texts to train on and `test` to test, whose teacher is the API at `url`."""
        texts = [f"text {number} {'x' * (number % 7)}".strip() for number in range(pool + test)]
        for name, rows in (("train", texts[:pool]), ("test", texts[pool:])):
            with (folder / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([["text"], *([text] for text in rows)])
        api = {"kind": "openai", "base_url": f"{url}/v1", "model": "m", "usd_per_million": PRICE.model_dump()}
        task = {
            "name": "job",
            "labels": list(NAMES),
            "data": {"train": {"path": "train.csv"}, "test": {"path": "test.csv"}, "near_duplicate": 1.0},
            "teacher": {**api, **teacher},
            "students": {"none": {"family": "static", "model": "package:none"}},
        }
        (folder / "task.yaml").write_text(yaml.safe_dump(task))
        return cls(folder / "task.yaml", folder / "run", texts)

    def rows(self, table: str, column: str) -> list[Any]:
        """Read a column of the store of answers on disk; `table` may have conditions."""
        if not (self.root / "answers.sqlite").exists():
            return []
        with closing(sqlite3.connect(self.root / "answers.sqlite")) as reader:
            return [value for (value,) in reader.execute(f"SELECT {column} FROM {table}")]

    @property
    def answered(self) -> set[str]:
        """The keys of the texts whose answers are on disk."""
        return set(self.rows("answers", "text"))

    def labels(self) -> SoftLabels:
        """Read the labels of the finished run."""
        return SoftLabels.read(Run(load_task(self.file), self.root).labels.require("label") / LABELS)
