"""Over a Ray cluster as on one machine: nothing is paid for twice and the budget holds, whoever of it is killed.

The server is in this process and charges for what it begins; the command, and each worker of it, is in another one.
"""

from __future__ import annotations

import asyncio
import csv
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvicorn
import yaml

from distill.errors import DistillError
from distill.labelling.answer_store import text_key
from distill.labelling.session import LabellingOptions
from distill.labelling.soft_labels import SoftLabels
from distill.run import LABELS, Run
from distill.task import load_task
from distill.teachers.api.pricing import Price, Usage

ROOT = Path(__file__).parents[4]
NAMES = ("billing", "refund", "shipping")
PRICE = Price(input=1.0, output=4.0)
PROBES = 3
AT_ONCE = 8  # calls at the server
UNDER_WAY = AT_ONCE // 2 + AT_ONCE // 2 // 4 + 1  # calls of one of two workers

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "COLUMNS": "400"}


async def no_wait(text: str) -> None:
    """Answer at once."""


@dataclass
class Server:
    """OpenAI's chat API. A call is charged as soon as it is begun, and answered when `wait` returns.

    It knows which process each call came from. Of `refused`, it says that their key is wrong.
    """

    wait: Callable[[str], Awaitable[None]] = no_wait
    base_url: str = ""
    refused: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    processes: dict[int, int] = field(default_factory=dict)
    process_of: dict[str, int] = field(default_factory=dict)
    usd: float = 0.0
    state: Any = None
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
        tokens = len(body) - int(text_key(text)[:2], 16) // 2
        if text not in self.refused:
            self.usd += PRICE.cost(Usage(input=tokens, output=1))
        port = scope["client"][1]
        if port not in self.processes:
            self.processes[port] = _process_at(port)
        async with self.heard:
            self.asked.append(text)
            self.process_of[text] = self.processes[port]
            self.heard.notify_all()
        await self.wait(text)
        status, said = (
            (401, {"error": {"message": "no"}}) if text in self.refused else (200, _said(request, text, tokens))
        )
        content = json.dumps(said).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    @property
    def workers(self) -> set[int]:
        """The processes that asked for texts of the pool; the driver asks for names of labels alone."""
        return {process for text, process in self.process_of.items() if text not in NAMES}

    async def until(self, what: Callable[[], bool]) -> None:
        """Return when so much was asked for."""
        async with self.heard:
            await self.heard.wait_for(what)

    async def left_alone(self) -> None:
        """Return when no connection is open and no call is being served: what was sent was begun, and charged."""
        while self.state.connections or self.state.tasks:
            await asyncio.sleep(0.01)


def _said(request: dict[str, Any], text: str, tokens: int) -> dict[str, Any]:
    listing = request["messages"][0]["content"].splitlines()
    code_of = {line[3:]: line[0] for line in listing if line[1:3] == ": "}
    top = [{"token": code_of[right(text)], "logprob": math.log(0.9)}, {"token": "The", "logprob": math.log(0.05)}]
    message = {"role": "assistant", "content": top[0]["token"]}
    logprobs = {"content": [{**top[0], "top_logprobs": top}]}
    return {
        "model": request["model"],
        "choices": [{"message": message, "logprobs": logprobs, "finish_reason": "length"}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1},
    }


def right(text: str) -> str:
    """The label that the server is sure of."""
    return NAMES[int(text_key(text), 16) % len(NAMES)]


def _process_at(port: int) -> int:
    """The process that has this end of a connection."""
    return next(one.pid for one in psutil.net_connections("tcp") if one.pid and one.laddr and one.laddr.port == port)


@asynccontextmanager
async def serving(wait: Callable[[str], Awaitable[None]] = no_wait) -> AsyncIterator[Server]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = Server(wait, f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        running = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        running.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        app.state = running.server_state
        task = asyncio.create_task(running.serve([listener]))
        yield app
        running.should_exit = True
        await task


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster on this machine that outlives the commands."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed: pip install 'reflux[ray]'")
    os.environ.update(QUIET)
    context = ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield context.address_info["gcs_address"]
    ray.shutdown()


@dataclass
class Done:
    """How a command ended, and what it wrote where."""

    status: int
    out: str
    err: str


@dataclass
class Job:
    """A task whose teacher is the server, the run's folder, and the cluster to run it on."""

    file: Path
    root: Path
    texts: list[str]
    address: str | None

    def rows(self, table: str, column: str) -> list[Any]:
        """What is on disk."""
        if not (self.root / "answers.sqlite").exists():
            return []
        with closing(sqlite3.connect(self.root / "answers.sqlite")) as reader:
            return [value for (value,) in reader.execute(f"SELECT {column} FROM {table}")]

    @property
    def answered(self) -> set[str]:
        return set(self.rows("answers", "text"))

    def labels(self) -> SoftLabels:
        return SoftLabels.read(Run(load_task(self.file), self.root).labels.require("label") / LABELS)

    @asynccontextmanager
    async def running(self, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """`reflux label` over the cluster, or one that it starts itself, in a process group of its own."""
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | QUIET
        address = {} if self.address is None else {"RAY_ADDRESS": self.address}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from reflux.cli import main; main()", "label", str(self.file)),
            *("--output", str(self.root), "--engine", "ray", *options),
            cwd=ROOT,
            env={**environment, **address},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.communicate()

    async def run(self, *options: str) -> Done:
        async with self.running(*options) as process:
            return await ended(process)


async def ended(process: asyncio.subprocess.Process) -> Done:
    out, err = await process.communicate()
    return Done(process.returncode or 0, out.decode(), err.decode())


async def said(process: asyncio.subprocess.Process, part: str) -> None:
    """Return when it says this on standard error."""
    assert process.stderr
    await process.stderr.readuntil(part.encode())


def job(folder: Path, server: Server, address: str | None, pool: int = 180, **teacher: Any) -> Job:
    texts = [f"text {number} {'x' * (number % 7)}".strip() for number in range(pool + 20)]
    for name, rows in (("train", texts[:pool]), ("test", texts[pool:])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in rows)])
    task = {
        "name": "cluster",
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
    return Job(folder / "task.yaml", folder / "run", texts, address)


async def test_every_text_is_asked_for_once_and_labelled_as_by_one_process(tmp_path, cluster) -> None:
    both = asyncio.Event()

    async def wait(text: str) -> None:
        if text not in NAMES:
            if len(server.workers) == 2:
                both.set()
            await both.wait()

    async with serving(wait) as server:
        made = job(tmp_path, server, cluster)
        done = await made.run()
        assert done.status == 0, done.err
        assert sorted(server.asked) == sorted([*made.texts, *NAMES])
        assert f"{len(made.texts)} texts labelled by openai:m" in done.out
        assert f"0 refused, 0 invalid; {len(made.texts)} asked now; $0.0" in done.out
        assert [line[:20] for line in done.err.splitlines()] == ["comparing texts     ", "openai:m labels the "]
        assert made.rows("money", "spent") == [pytest.approx(server.usd)]

        shutil.rmtree(made.root / "labels")
        again = await made.run()
        assert again.status == 0, again.err
        assert "; 0 asked now; $0.0" in again.out
        assert len(server.asked) == len(made.texts) + PROBES

        one, other = made.labels(), Run(load_task(made.file), tmp_path / "local")
        other.make_data()
        await asyncio.to_thread(other.make_labels)
    alone = other.soft_labels()
    assert (one.ids, one.texts, one.methods) == (alone.ids, alone.texts, alone.methods)
    assert (one.probabilities == alone.probabilities).all()
    assert [one.labels[row] for row in one.probabilities.argmax(1)] == [right(text) for text in one.texts]


async def test_the_budget_is_the_clusters_and_more_money_goes_on(tmp_path, cluster) -> None:
    async with serving() as server:
        made = job(tmp_path, server, cluster)
        done = await made.run("--max-usd", "0.03")
        assert done.status == 1
        last = done.err.splitlines()[-1]
        assert last.startswith("error: $0.0"), done.err
        assert "of $0.030 are spent, and the next call may cost $0.000" in last
        assert "Traceback" not in done.err
        assert 0.027 < server.usd <= 0.03
        assert made.rows("reservations", "usd") == []
        assert made.answered == {text_key(text) for text in server.asked} - {text_key(name) for name in NAMES}

        done = await made.run("--max-usd", "10")
        assert done.status == 0, done.err
    assert sorted(server.asked) == sorted([*made.texts, *NAMES])
    assert made.rows("money", "spent") == [pytest.approx(server.usd)]


async def test_a_teacher_that_fails_is_told_as_by_one_process_and_what_was_paid_for_is_stored(
    tmp_path, cluster
) -> None:
    async with serving() as server:
        made = job(tmp_path, server, cluster)
        server.refused = {made.texts[100]}
        done = await made.run()
        assert done.status == 1
        assert "Traceback" not in done.err
        assert (
            done.err.splitlines()[-1]
            == "error: openai:m refuses the key (401: no); set the variable that `key_env` names"
        )
        assert made.answered == {text_key(text) for text in server.asked if text not in {*NAMES, *server.refused}}
        assert len(server.asked) < len(made.texts)

        server.refused = set()
        before = len(server.asked)
        assert (await made.run()).status == 0
    assert len(server.asked) == len(made.texts) + PROBES + 1
    assert not {text_key(text) for text in server.asked[:before]} & {
        text_key(text) for text in server.asked[before:]
    } - {text_key(made.texts[100])}


async def test_a_worker_that_is_killed_loses_the_calls_in_flight_and_no_more(tmp_path, cluster) -> None:
    released = asyncio.Event()
    free = 60

    async def wait(text: str) -> None:
        if len(server.asked) > free:
            await released.wait()

    async with serving(wait) as server:
        made = job(tmp_path, server, cluster)
        async with made.running("--max-usd", "10") as running:
            await server.until(lambda: len(server.asked) > free + AT_ONCE // 2 and len(server.workers) == 2)
            killed = server.process_of[server.asked[-1]]
            before = made.answered
            os.kill(killed, signal.SIGKILL)
            released.set()
            done = await ended(running)
        assert done.status == 0, done.err
    times = Counter(server.asked)
    lost = {text for text, often in times.items() if often > 1}
    assert 0 < len(lost) <= UNDER_WAY
    assert max(times.values()) == 2
    assert not {text_key(text) for text in lost} & before
    assert made.answered == set(map(text_key, made.texts))
    assert made.rows("reservations", "usd") == []
    (spent,) = made.rows("money", "spent")
    assert server.usd <= spent < server.usd * 1.1  # a call that is lost counts at its worst price
    assert sorted(made.labels().texts) == sorted(made.texts)


async def test_a_driver_that_is_killed_pays_for_nothing_twice_when_it_is_started_again(tmp_path, cluster) -> None:
    released = asyncio.Event()
    free = 60

    async def wait(text: str) -> None:
        if len(server.asked) > free:
            await released.wait()

    async with serving(wait) as server:
        made = job(tmp_path, server, cluster)
        async with made.running("--max-usd", "10") as running:
            await server.until(lambda: len(server.asked) > free + AT_ONCE // 2)
            running.kill()
            await running.communicate()
        released.set()
        await server.left_alone()
        begun, answered, paid = len(server.asked), made.answered, made.rows("calls WHERE cost_usd > 0", "key")
        assert begun - len(paid) <= 2 * UNDER_WAY

        done = await made.run("--max-usd", "10", "--workers", "5")
        assert done.status == 0, done.err
        assert "the Ray cluster has 4 CPUs for 5 workers" in done.err
    assert not {text_key(text) for text in server.asked[begun:]} & answered
    assert len(server.asked) == len(made.texts) + PROBES + begun - len(paid)
    (spent,) = made.rows("money", "spent")
    assert server.usd <= spent < server.usd * 1.1


async def test_ctrl_c_waits_for_what_is_in_flight_and_leaves_nothing_of_ray_behind(tmp_path, cluster) -> None:
    released = asyncio.Event()

    async def wait(text: str) -> None:
        if text not in NAMES:
            await released.wait()

    async with serving(wait) as server:
        made = job(tmp_path, server, None)
        async with made.running() as running:
            await server.until(lambda: len(server.asked) == PROBES + AT_ONCE)
            ray = psutil.Process(running.pid).children(recursive=True)
            assert any("raylet" in process.name() for process in ray)
            os.killpg(running.pid, signal.SIGINT)
            await said(running, "stopping after the calls in flight")
            released.set()
            done = await ended(running)
        assert done.status == 130
        assert done.err.splitlines()[-1].startswith("stopped: every answer so far is stored, and $0.00")
        assert "Traceback" not in done.err
        assert PROBES + AT_ONCE <= len(server.asked) <= PROBES + 2 * UNDER_WAY
        assert made.answered == {text_key(text) for text in server.asked[PROBES:]}
        assert made.rows("money", "spent") == [pytest.approx(server.usd)]
        gone, alive = psutil.wait_procs(ray, timeout=60)
        assert alive == []
        assert gone


async def test_a_second_ctrl_c_gives_up_what_is_in_flight_and_counts_it(tmp_path, cluster) -> None:
    released = asyncio.Event()

    async def wait(text: str) -> None:
        if text not in NAMES:
            await released.wait()

    async with serving(wait) as server:
        made = job(tmp_path, server, cluster)
        async with made.running() as running:
            await server.until(lambda: len(server.asked) == PROBES + AT_ONCE)
            os.killpg(running.pid, signal.SIGINT)
            await said(running, "stopping after the calls in flight")
            os.killpg(running.pid, signal.SIGINT)
            done = await ended(running)
        assert done.status == 130
        assert "Traceback" not in done.err
        assert made.answered == set()
        assert made.rows("reservations", "usd") == []
        (spent,) = made.rows("money", "spent")
        assert server.usd <= spent
        released.set()
        await server.left_alone()


async def test_a_cluster_that_cannot_be_reached_is_told(tmp_path, cluster) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        async with serving() as server:
            done = await job(tmp_path, server, address, 20).run()
    assert done.status == 1
    assert "Traceback" not in done.err
    assert f"error: the Ray cluster {address} is not available: [Errno 111] Connection refused" in done.err


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith("distill.labelling.ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    made = job(tmp_path, Server(base_url="http://127.0.0.1:9/v1"), None, 20)
    run = Run(load_task(made.file), made.root)
    run.make_data()
    with pytest.raises(DistillError, match=r"--engine ray needs Ray .*pip install 'reflux\[ray\]'"):
        run.make_labels(LabellingOptions(workers=2))
