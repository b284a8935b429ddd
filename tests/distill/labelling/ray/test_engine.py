"""Over a Ray cluster as on one machine: nothing is paid for twice and the budget holds, whoever of it is killed.

The server is in this process and charges for what it begins; the command, and each worker of it, is in another one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from distill.errors import DistillError
from distill.labelling.answer_store import text_key
from distill.labelling.session import LabellingOptions
from distill.run import Run
from distill.task import load_task
from tests.support.http_server import HttpServer, serving
from tests.support.labelling_job import NAMES, PROBES, ChargingApi, Hold, LabellingJob, right, text_of
from tests.support.sockets import address_of
from tests.support.waiting import until

ROOT = Path(__file__).parents[4]
RAY_STARTS = 150.0  # seconds, at most
AT_ONCE = 8  # calls at the server
UNDER_WAY = AT_ONCE // 2 + AT_ONCE // 2 // 4 + 1  # calls of one of two workers

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "COLUMNS": "400"}


@dataclass
class Server(ChargingApi):
    """Knows which process each call came from."""

    spread: int = 128
    processes: dict[int, int] = field(default_factory=dict)
    process_of: dict[str, int] = field(default_factory=dict)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        port = request.extensions["client"][1]
        if port not in self.processes:
            self.processes[port] = _process_at(port)
        self.process_of[text_of(request)] = self.processes[port]
        return await super().__call__(request)

    @property
    def workers(self) -> set[int]:
        """The processes that asked for texts of the pool; the driver asks for names of labels alone."""
        return {process for text, process in self.process_of.items() if text not in NAMES}


def _process_at(port: int) -> int:
    """The process that has this end of a connection."""
    return next(one.pid for one in psutil.net_connections("tcp") if one.pid and one.laddr and one.laddr.port == port)


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
class Job(LabellingJob):
    """A labelling job with the address of the cluster to run it on, where that is not started anew."""

    address: str | None = None

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


def job(folder: Path, server: HttpServer, address: str | None, pool: int = 180) -> Job:
    job = Job.write(folder, server.url, pool=pool, test=20, concurrency=AT_ONCE)
    job.address = address
    return job


async def test_every_text_is_asked_for_once_and_labelled_as_by_one_process(tmp_path, cluster) -> None:
    both = asyncio.Event()

    async def wait(text: str) -> None:
        if text not in NAMES:
            if len(teacher.workers) == 2:
                both.set()
            await both.wait()

    teacher = Server(wait)
    async with serving(teacher) as server:
        made = job(tmp_path, server, cluster)
        done = await made.run()
        assert done.status == 0, done.err
        assert sorted(teacher.asked) == sorted([*made.texts, *NAMES])
        assert f"{len(made.texts)} texts labelled by openai:m" in done.out
        assert f"0 refused, 0 invalid; {len(made.texts)} asked now; $0.0" in done.out
        shown = ("warning: ", "comparing texts: ", "openai:m labels the pool: ")  # and nothing of Ray's
        assert [line for line in done.err.splitlines() if not line.startswith(shown)] == []
        assert made.rows("money", "spent") == [pytest.approx(teacher.usd)]

        shutil.rmtree(made.root / "labels")
        again = await made.run()
        assert again.status == 0, again.err
        assert "; 0 asked now; $0.0" in again.out
        assert len(teacher.asked) == len(made.texts) + PROBES

        one, other = made.labels(), Run(load_task(made.file), tmp_path / "local")
        other.make_data()
        await asyncio.to_thread(other.make_labels)
    alone = other.soft_labels()
    assert (one.ids, one.texts, one.methods) == (alone.ids, alone.texts, alone.methods)
    assert (one.probabilities == alone.probabilities).all()
    assert [one.labels[row] for row in one.probabilities.argmax(1)] == [right(text) for text in one.texts]


async def test_the_budget_is_the_clusters_and_more_money_goes_on(tmp_path, cluster) -> None:
    teacher = Server()
    async with serving(teacher) as server:
        made = job(tmp_path, server, cluster)
        done = await made.run("--max-usd", "0.03")
        assert done.status == 1
        last = done.err.splitlines()[-1]
        assert last.startswith("error: $0.0"), done.err
        assert "of $0.030 are spent, and the next call may cost $0.000" in last
        assert "Traceback" not in done.err
        assert 0.027 < teacher.usd <= 0.03
        assert made.rows("reservations", "usd") == []
        assert made.answered == {text_key(text) for text in teacher.asked} - {text_key(name) for name in NAMES}

        done = await made.run("--max-usd", "10")
        assert done.status == 0, done.err
    assert sorted(teacher.asked) == sorted([*made.texts, *NAMES])
    assert made.rows("money", "spent") == [pytest.approx(teacher.usd)]


async def test_a_teacher_that_fails_is_told_as_by_one_process_and_what_was_paid_for_is_stored(
    tmp_path, cluster
) -> None:
    teacher = Server()
    async with serving(teacher) as server:
        made = job(tmp_path, server, cluster)
        teacher.refused = {made.texts[100]}
        done = await made.run()
        assert done.status == 1
        assert "Traceback" not in done.err
        assert (
            done.err.splitlines()[-1]
            == "error: openai:m refuses the key (401: no); set the variable that `key_env` names"
        )
        assert made.answered == {text_key(text) for text in teacher.asked if text not in {*NAMES, *teacher.refused}}
        assert len(teacher.asked) < len(made.texts)

        teacher.refused = set()
        before = len(teacher.asked)
        assert (await made.run()).status == 0
    assert len(teacher.asked) == len(made.texts) + PROBES + 1
    assert not {text_key(text) for text in teacher.asked[:before]} & {
        text_key(text) for text in teacher.asked[before:]
    } - {text_key(made.texts[100])}


async def test_a_worker_that_is_killed_loses_the_calls_in_flight_and_no_more(tmp_path, cluster) -> None:
    hold = Hold(60)
    teacher = Server(hold)
    async with serving(teacher) as server:
        made = job(tmp_path, server, cluster)
        async with made.running("--max-usd", "10") as running:
            await until(
                lambda: len(teacher.asked) > hold.free + AT_ONCE // 2 and len(teacher.workers) == 2, patience=RAY_STARTS
            )
            killed = teacher.process_of[teacher.asked[-1]]
            before = made.answered
            os.kill(killed, signal.SIGKILL)
            hold.released.set()
            done = await ended(running)
        assert done.status == 0, done.err
    times = Counter(teacher.asked)
    lost = {text for text, often in times.items() if often > 1}
    assert 0 < len(lost) <= UNDER_WAY
    assert max(times.values()) == 2
    assert not {text_key(text) for text in lost} & before
    assert made.answered == set(map(text_key, made.texts))
    assert made.rows("reservations", "usd") == []
    (spent,) = made.rows("money", "spent")
    assert teacher.usd <= spent < teacher.usd * 1.1  # a call that is lost counts at its worst price
    assert sorted(made.labels().texts) == sorted(made.texts)


async def test_a_driver_that_is_killed_pays_for_nothing_twice_when_it_is_started_again(tmp_path, cluster) -> None:
    hold = Hold(60)
    teacher = Server(hold)
    async with serving(teacher) as server:
        made = job(tmp_path, server, cluster)
        async with made.running("--max-usd", "10") as running:
            await until(lambda: len(teacher.asked) > hold.free + AT_ONCE // 2, patience=RAY_STARTS)
            running.kill()
            await running.communicate()
        hold.released.set()
        await server.idle(patience=RAY_STARTS)
        begun, answered, paid = len(teacher.asked), made.answered, made.rows("calls WHERE cost_usd > 0", "key")
        assert begun - len(paid) <= 2 * UNDER_WAY

        done = await made.run("--max-usd", "10", "--workers", "5")
        assert done.status == 0, done.err
        assert "the Ray cluster has 4 CPUs for 5 workers" in done.err
    assert not {text_key(text) for text in teacher.asked[begun:]} & answered
    assert len(teacher.asked) == len(made.texts) + PROBES + begun - len(paid)
    (spent,) = made.rows("money", "spent")
    assert teacher.usd <= spent < teacher.usd * 1.1


async def test_ctrl_c_waits_for_what_is_in_flight_and_leaves_nothing_of_ray_behind(tmp_path, cluster) -> None:
    hold = Hold()
    teacher = Server(hold)
    async with serving(teacher) as server:
        made = job(tmp_path, server, None)
        async with made.running() as running:
            await until(lambda: len(teacher.asked) == PROBES + AT_ONCE, patience=RAY_STARTS)
            ray = psutil.Process(running.pid).children(recursive=True)
            assert any("raylet" in process.name() for process in ray)
            os.killpg(running.pid, signal.SIGINT)
            await said(running, "stopping after the calls in flight")
            hold.released.set()
            done = await ended(running)
        assert done.status == 130
        assert done.err.splitlines()[-1].startswith("stopped: every answer so far is stored, and $0.00")
        assert "Traceback" not in done.err
        assert PROBES + AT_ONCE <= len(teacher.asked) <= PROBES + 2 * UNDER_WAY
        assert made.answered == {text_key(text) for text in teacher.asked[PROBES:]}
        assert made.rows("money", "spent") == [pytest.approx(teacher.usd)]
        gone, alive = psutil.wait_procs(ray, timeout=60)
        assert alive == []
        assert gone


async def test_a_second_ctrl_c_gives_up_what_is_in_flight_and_counts_it(tmp_path, cluster) -> None:
    hold = Hold()
    teacher = Server(hold)
    async with serving(teacher) as server:
        made = job(tmp_path, server, cluster)
        async with made.running() as running:
            await until(lambda: len(teacher.asked) == PROBES + AT_ONCE, patience=RAY_STARTS)
            os.killpg(running.pid, signal.SIGINT)
            await said(running, "stopping after the calls in flight")
            os.killpg(running.pid, signal.SIGINT)
            done = await ended(running)
        assert done.status == 130
        assert "Traceback" not in done.err
        assert made.answered == set()
        assert made.rows("reservations", "usd") == []
        (spent,) = made.rows("money", "spent")
        assert teacher.usd <= spent
        hold.released.set()
        await server.idle(patience=RAY_STARTS)


async def test_a_cluster_that_cannot_be_reached_is_told(tmp_path, cluster) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = address_of(nobody)
        teacher = Server()
    async with serving(teacher) as server:
        done = await job(tmp_path, server, address, 20).run()
    assert done.status == 1
    assert "Traceback" not in done.err
    assert f"error: the Ray cluster {address} is not available: [Errno 111] Connection refused" in done.err


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith("distill.labelling.ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    made = Job.write(tmp_path, "http://127.0.0.1:9", pool=20, test=20)
    run = Run(load_task(made.file), made.root)
    run.make_data()
    with pytest.raises(DistillError, match=r"--engine ray needs Ray .*pip install 'reflux\[ray\]'"):
        run.make_labels(LabellingOptions(workers=2))
