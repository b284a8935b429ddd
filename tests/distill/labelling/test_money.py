"""Nothing is paid for twice and the budget holds, whatever kills the process: a server that charges for what it begins.

The server is in this process, the run in another one, with sockets and signals between them.
"""

from __future__ import annotations

import asyncio
import csv
import json
import math
import os
import random
import re
import signal
import socket
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
import yaml

from distill.labelling.answer_store import text_key
from distill.labelling.soft_labels import SoftLabels
from distill.run import LABELS, Run
from distill.task import load_task
from distill.teachers import create
from distill.teachers.api.pricing import Price, Usage

ROOT = Path(__file__).parents[3]
NAMES = ("billing", "refund", "shipping")
PRICE = Price(input=1.0, output=4.0)
POOL, TEST = 1800, 200
PROBES, KILLS = 3, 20
AT_ONCE = 32  # calls at the server; a quarter more, and one, are being written down
UNDER_WAY = AT_ONCE + AT_ONCE // 4 + 1
CALLS = "calls WHERE cost_usd > 0"  # what a teacher agreed with the server on is kept too, and costs nothing
TIGHT = 1800  # calls, at their worst: too few for all the texts, and enough for what the killed runs ask

PROCESS = """
import json, os, signal, sys
from pathlib import Path

from reflux import cli as command
import distill.training.requirements  # once, and not in each child
from distill.run import Run
from distill.task import load_task
from distill.teachers import create

Run(load_task(sys.argv[1]), Path(sys.argv[2])).make_data()
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.argv[1:] = ["label", sys.argv[1], "--output", sys.argv[2], *json.loads(line)]
        try:
            command.main()
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass
class Server:
    """OpenAI's chat API. A call is charged, at a token for each byte of it or a few less, as soon as it is begun."""

    base_url: str
    wait: Callable[[str], Awaitable[None]]
    spread: int = 8
    state: Any = None
    asked: list[str] = field(default_factory=list)
    usd: float = 0.0
    heard: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return  # killed before the call was begun
            body, more = body + message["body"], message["more_body"]
        request = json.loads(body)
        text = request["messages"][-1]["content"].splitlines()[1]
        tokens = len(body) - int(text_key(text), 16) % self.spread
        self.usd += PRICE.cost(Usage(input=tokens, output=1))
        async with self.heard:
            self.asked.append(text)
            self.heard.notify_all()
        await self.wait(text)
        content = json.dumps(self.completion(request, text, tokens)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def completion(self, request: dict[str, Any], text: str, tokens: int) -> dict[str, Any]:
        listing = request["messages"][0]["content"].splitlines()
        code_of = {line[3:]: line[0] for line in listing if line[1:3] == ": "}
        top = [{"token": code_of[right(text)], "logprob": math.log(0.9)}, {"token": "The", "logprob": math.log(0.05)}]
        return {
            "model": request["model"],
            "choices": [
                {
                    "message": {"role": "assistant", "content": top[0]["token"]},
                    "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
                    "finish_reason": "length",
                }
            ],
            "usage": {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1},
        }

    async def until(self, calls: int) -> None:
        """Return when so many calls were begun in all."""
        async with self.heard:
            await self.heard.wait_for(lambda: len(self.asked) >= calls)

    async def left_alone(self) -> None:
        """Return when no connection is open and no call is being served: what was sent was begun, and charged."""
        while self.state.connections or self.state.tasks:
            await asyncio.sleep(0.001)


def right(text: str) -> str:
    """The label that the server is sure of."""
    return NAMES[int(text_key(text), 16) % len(NAMES)]


@asynccontextmanager
async def serving(wait: Callable[[str], Awaitable[None]]) -> AsyncIterator[Server]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = Server(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", wait)
        running = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        running.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        app.state = running.server_state
        task = asyncio.create_task(running.serve([listener]))
        yield app
        running.should_exit = True
        await task


@dataclass
class Job:
    """A task whose teacher is the server, and the run's folder."""

    file: Path
    root: Path
    texts: list[str]

    def rows(self, table: str, column: str) -> list[Any]:
        """What is on disk, while no run is open."""
        if not (self.root / "answers.sqlite").exists():
            return []
        with closing(sqlite3.connect(self.root / "answers.sqlite")) as reader:
            return [value for (value,) in reader.execute(f"SELECT {column} FROM {table}")]

    async def worst(self) -> float:
        """The most that a call can cost, in dollars."""
        teacher = create(load_task(self.file).teacher, NAMES)
        calls = [call for text in self.texts for call in await teacher.plan(text)]  # type: ignore[attr-defined]
        await teacher.aclose()
        return max(api.max_cost(request) for api, request in calls)

    def labels(self) -> SoftLabels:
        return SoftLabels.read(Run(load_task(self.file), self.root).labels.require("label") / LABELS)


def job(folder: Path, server: Server, pool: int = POOL, test: int = TEST, **teacher: Any) -> Job:
    texts = [f"text {number} {'x' * (number % 7)}".strip() for number in range(pool + test)]
    for name, rows in (("train", texts[:pool]), ("test", texts[pool:])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in rows)])
    task = {
        "name": "money",
        "labels": list(NAMES),
        "data": {"train": {"path": "train.csv"}, "test": {"path": "test.csv"}, "near_duplicate": 1.0},
        "teacher": {
            "kind": "openai",
            "base_url": server.base_url,
            "model": "m",
            "usd_per_million": PRICE.model_dump(),
            "concurrency": AT_ONCE,
            **teacher,
        },
        "students": {"none": {"family": "static", "model": "package:none"}},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    return Job(folder / "task.yaml", folder / "run", texts)


class Process:
    """The command in processes of its own, one after the other, forked from one that has everything loaded."""

    def __init__(self, inner: asyncio.subprocess.Process) -> None:
        self.inner = inner
        assert inner.stdin
        assert inner.stdout
        assert inner.stderr
        self.stdin, self.stdout, self.stderr = inner.stdin, inner.stdout, inner.stderr

    async def start(self, *options: str) -> int:
        """Run `reflux label` with options. Gives its process id."""
        self.stdin.write((json.dumps(options) + "\n").encode())
        return int(await self.number())

    async def number(self) -> int:
        """The next number that it says, past what the command printed."""
        while line := await self.stdout.readline():
            if line.strip().lstrip(b"-").isdigit():
                return int(line)
        raise AssertionError((await self.stderr.read()).decode())

    async def said(self, part: str) -> str:
        """What it says on standard error, up to the line with this part."""
        return await _until(self.stderr, part)

    async def printed(self, part: str) -> str:
        """What it says on standard output, up to the line with this part."""
        return await _until(self.stdout, part)


async def _until(stream: asyncio.StreamReader, part: str) -> str:
    lines = ""
    while part not in lines:
        line = await stream.readline()
        assert line, lines
        lines += line.decode()
    return lines


@asynccontextmanager
async def process(made: Job) -> AsyncIterator[Process]:
    pipe = asyncio.subprocess.PIPE
    inner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROCESS, str(made.file), str(made.root)),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    )
    try:
        yield Process(inner)
    finally:
        if inner.returncode is None:
            inner.kill()
        await inner.communicate()


async def test_a_run_killed_at_any_moment_pays_for_nothing_twice_and_keeps_to_its_budget(tmp_path) -> None:
    generator = random.Random(20)

    async def wait(text: str) -> None:
        await asyncio.sleep(generator.uniform(0.001, 0.008))

    async with serving(wait) as server:
        made = job(tmp_path, server)
        worst = await made.worst()
        tight = TIGHT * worst
        async with process(made) as command:
            for _ in range(KILLS):
                before, kept = set(made.rows("answers", "text")), len(made.rows(CALLS, "key"))
                begun = len(server.asked)
                child = await command.start("--max-usd", str(tight))
                await server.until(begun + generator.randrange(1, 80))
                await asyncio.sleep(generator.uniform(0, 0.01))
                os.kill(child, signal.SIGKILL)
                assert await command.number() == -signal.SIGKILL
                await server.left_alone()
                asked = [text_key(text) for text in server.asked[begun:]]
                after = set(made.rows("answers", "text"))
                assert before <= after <= {text_key(text) for text in server.asked}
                assert not before & set(asked)
                assert len(asked) == len(set(asked))
                lost = len(asked) - (len(made.rows(CALLS, "key")) - kept)
                assert 0 <= lost <= UNDER_WAY
            paid = len(made.rows(CALLS, "key"))
            lost = len(server.asked) - paid

            await command.start("--max-usd", str(tight))
            assert await command.number() == 1
            assert 0.9 * (tight - lost * worst) < server.usd <= tight
            assert len(made.rows("answers", "text")) < len(made.texts)

            await command.start("--max-usd", "10")
            assert await command.number() == 0
    assert len(server.asked) == len(made.texts) + PROBES + lost
    assert lost <= KILLS * UNDER_WAY
    assert sorted(made.rows("answers", "text")) == sorted(map(text_key, made.texts))
    soft = made.labels()
    assert sorted(soft.texts) == sorted(made.texts)
    assert [soft.labels[row] for row in soft.probabilities.argmax(1)] == [right(text) for text in soft.texts]
    assert [text for text, times in Counter(server.asked).items() if times > 1 + KILLS] == []


async def test_a_budget_that_is_too_small_ends_the_run_below_it_and_more_money_goes_on(tmp_path) -> None:
    async def wait(text: str) -> None:
        await asyncio.sleep(0)

    async with serving(wait) as server:
        server.spread = 128
        made = job(tmp_path, server, 90, 30)
        async with process(made) as command:
            await command.start("--dry-run")
            told = await command.printed("there are too few answers to learn from")
            assert await command.number() == 0
            assert "120 of 120 texts to ask; no call was made" in told
            assert "unknown" in told
            assert server.asked == []

            await command.start("--max-usd", "0.03")
            assert await command.number() == 1
            said = await command.said("--max-usd")
            assert "Traceback" not in said
            assert "of $0.030 are spent, and the next call may cost $0.000" in said.splitlines()[-1]
            assert 0.027 < server.usd <= 0.03
            answered = len(made.rows("answers", "text"))
            assert answered == len(server.asked) - PROBES

            paid = server.usd
            await command.start("--dry-run")
            told = await command.printed(f"learnt from {answered} texts")
            assert await command.number() == 0
            assert f"{120 - answered} of 120 texts to ask" in told
            cost = re.search(r"cost +\$([0-9.]+) \(\$([0-9.]+) to \$([0-9.]+)\)", told)
            assert cost is not None, told
            assert server.usd == paid

            await command.start()
            told = await command.printed("spent on calls in all")
            assert await command.number() == 0
            assert f"0 refused, 0 invalid; {120 - answered} asked now; $0.0" in told
            assert float(cost[2]) * 0.99 <= server.usd - paid <= float(cost[3]) * 1.01  # as printed
    assert sorted(server.asked) == sorted([*made.texts, *NAMES])


async def test_ctrl_c_stores_what_is_in_flight_and_a_second_one_gives_it_up_and_counts_it(tmp_path) -> None:
    released = asyncio.Event()

    async def wait(text: str) -> None:
        if text not in NAMES:
            await released.wait()

    async with serving(wait) as server:
        made = job(tmp_path, server, 90, 30, concurrency=4)
        async with process(made) as command:
            child = await command.start()
            await server.until(PROBES + 4)
            os.kill(child, signal.SIGINT)
            await command.said("stopping after the calls in flight")
            released.set()
            assert await command.number() == 130
            said = await command.said("nothing is asked or paid for twice")
            assert "Traceback" not in said
            assert said.splitlines()[-1].startswith("stopped: every answer so far is stored, and $0.00")
            assert len(server.asked) == PROBES + 6  # those at the server, and two that were waiting to get there
            kept = set(made.rows("answers", "text"))
            assert kept == {text_key(text) for text in server.asked[PROBES:]}

            released.clear()
            child = await command.start()
            await server.until(PROBES + 10)
            os.kill(child, signal.SIGINT)
            await command.said("stopping after the calls in flight")
            os.kill(child, signal.SIGINT)
            assert await command.number() == 130
            assert "Traceback" not in await command.said("nothing is asked or paid for twice")
            assert set(made.rows("answers", "text")) == kept
            assert made.rows("reservations", "usd") == []
            (spent,) = made.rows("money", "spent")
            assert server.usd <= spent < server.usd * 1.1

            released.set()
            await command.start()
            assert await command.number() == 0
    assert len(server.asked) == len(made.texts) + PROBES + 4  # which were asked again
    assert sorted(made.rows("answers", "text")) == sorted(map(text_key, made.texts))
