"""The deployment of a rehearsal: two serving hosts, a worker, PostgreSQL, a teacher, Prometheus, HAProxy, clients."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.rehearsals.hosts import balancer
from tests.rehearsals.hosts.database import Database
from tests.rehearsals.hosts.network import Network
from tests.rehearsals.hosts.processes import PATIENCE, Program
from tests.rehearsals.hosts.prometheus import Prometheus

SERVING = ("serving-1", "serving-2")
WORKER, DATABASE, TEACHER, MONITORING, CLIENTS = "worker", "database", "teacher", "monitoring", "clients"
HOSTS = (*SERVING, WORKER, DATABASE, TEACHER, MONITORING, CLIENTS)

PORT = balancer.PORT
TEACHER_PORT = 8000
DRAIN_SECONDS = 3.0
"""Longer than the balancer takes to notice a failing `/readyz`."""

RATE = 0.5
"""Share of the requests that are shown to the teacher: far more than in production, for counts that mean something."""

SETTINGS = {
    "REFLUX_HOST": "0.0.0.0",
    "REFLUX_DRAIN_SECONDS": str(DRAIN_SECONDS),
    "REFLUX_IDLE_GRACE_SECONDS": "1",
    "REFLUX_WORKERS": "1",  # nothing is measured at the start, so that a host is back sooner
    "REFLUX_THREADS": "1",
    "REFLUX_BATCH_TOKENS": "512",
    "REFLUX_SHADOW__ENABLED": "true",
    "REFLUX_SHADOW__RATE": str(RATE),
    "REFLUX_SHADOW__DEADLINE_SECONDS": "3",
    "REFLUX_SHADOW__LEASE_SECONDS": "7",  # a killed worker's texts are another's after so long
    "REFLUX_SHADOW__ANCHORS_PER_DAY": "0",
    "REFLUX_SHADOW__REPEAT_RATE": "0",
}


@dataclass(frozen=True)
class Bundles:
    """The folders of the bundle that serves at first, of its successor, and of the one that answers as the teacher."""

    student: Path
    successor: Path
    teacher: Path


class Reflux(Program):
    """A process of Reflux, and a client of it."""

    def __init__(
        self, network: Network, host: str, port: int, verb: str, environment: Mapping[str, str], log: Path
    ) -> None:
        command = (sys.executable, "-m", "reflux", verb)
        super().__init__(network, host, command, {**environment, "REFLUX_PORT": str(port)}, log)
        self.target = f"{network.addresses[host]}:{port}"

    async def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it, from now on with these variables, but its own port, if they are given."""
        await super().start({**environment, "REFLUX_PORT": self.target.rpartition(":")[2]} if environment else None)

    async def ready(self) -> bool:
        """Return whether it answers that it is ready."""
        return await answers(f"http://{self.target}/readyz")

    async def gap(self) -> dict[str, Any]:
        """Return the body of its `GET /gap`. Raises httpx.HTTPError."""
        async with httpx.AsyncClient(timeout=5) as client:
            body: dict[str, Any] = (await client.get(f"http://{self.target}/gap")).raise_for_status().json()
            return body


class Cluster:
    """All programs; `serving` by host. Files are in `folder`, a log for each program among them."""

    def __init__(self, network: Network, folder: Path, bundles: Bundles) -> None:
        self.network, self.folder, self.bundles = network, folder, bundles
        self.database = Database(network, DATABASE, _made(folder / "database"))
        (folder / "password").write_text(self.database.password)
        answering, asking = self.environment(bundles.student, ask=False), self.environment(bundles.student, ask=True)
        self.serving = {
            host: Reflux(network, host, PORT, "serve", answering, folder / f"{host}.log") for host in SERVING
        }
        self.worker = Reflux(network, WORKER, PORT, "worker", asking, folder / "worker.log")
        asking = self.environment(bundles.successor, ask=True)
        self.next_worker = Reflux(network, WORKER, PORT + 1, "worker", asking, folder / "next-worker.log")
        self.teacher = self._python(
            TEACHER,
            "tests.rehearsals.hosts.teacher",
            str(bundles.teacher),
            network.addresses[TEACHER],
            str(TEACHER_PORT),
        )
        targets = [process.target for process in (*self.serving.values(), self.worker, self.next_worker)]
        self.prometheus = Prometheus(network, MONITORING, _made(folder / "monitoring"), targets)
        configuration = folder / "haproxy.cfg"
        servers = {host: network.addresses[host] for host in SERVING}
        configuration.write_text(balancer.configuration(network.addresses[CLIENTS], servers))
        self.balancer = Program(
            network, CLIENTS, ("haproxy", "-db", "-f", str(configuration)), os.environ, folder / "haproxy.log"
        )
        self._entry = f"http://{network.addresses[CLIENTS]}:{balancer.PORT}"
        self._loads = 0

    @property
    def processes(self) -> list[Reflux]:
        """The processes of Reflux that run now."""
        return [one for one in (*self.serving.values(), self.worker, self.next_worker) if one.runs]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Cluster]:
        """Start everything in the order of a deployment, and end it."""
        try:
            await self.database.create()
            await self._migrate()
            await self.teacher.start()
            await self.prometheus.start()
            for process in (*self.serving.values(), self.worker):
                await process.start()
            for process in self.processes:
                await process.until(process.ready)
            await self.prometheus.program.until(self._scraped)  # or it would not see the first counts
            await self.balancer.start()
            await self.balancer.until(lambda: answers(f"{self._entry}/readyz"))
            yield self
        finally:
            for program in (*self.processes, self.balancer, self.teacher, self.prometheus.program):
                await program.end(signal.SIGKILL)
            await self.database.program.end(signal.SIGINT)

    async def load(self, seconds: float, per_second: float) -> tuple[Program, Path]:
        """Start clients that send requests for so long, and return them with the file that they will write."""
        self._loads += 1
        file = self.folder / f"requests-{self._loads}.jsonl"
        settings = (str(per_second), str(seconds), str(file), str(self._loads))
        clients = self._python(CLIENTS, "tests.rehearsals.hosts.load", self._entry, *settings)
        await clients.start()
        return clients, file

    async def nothing_waits(self, process: Reflux) -> None:
        """Wait until every text of a process's bundle has its outcome."""

        async def done() -> bool:
            queue = (await process.gap())["queue"]
            return not queue["waiting"] + queue["in_flight"]

        await process.until(done)

    def environment(self, bundle: Path, *, ask: bool) -> dict[str, str]:
        """Return the variables of a process of Reflux with `bundle`, which may `ask` the teacher or not."""
        teacher = {
            "kind": "openai",
            "base_url": f"http://{self.network.addresses[TEACHER]}:{TEACHER_PORT}/v1",
            "model": "teacher",
            "method": "votes",
            "samples": 1,
            "usd_per_million": {"input": 0.4, "output": 1.6},
        }
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("REFLUX_")},
            **SETTINGS,
            "OMP_NUM_THREADS": "1",
            "REFLUX_BUNDLE": str(bundle),
            "REFLUX_SHADOW__TEACHER": json.dumps(teacher),
            "REFLUX_SHADOW__DATABASE": self.database.url,
            "REFLUX_SHADOW__DATABASE_PASSWORD_FILE": str(self.folder / "password"),
            **({} if ask else {"REFLUX_SHADOW__ASK": "false"}),
        }

    async def _scraped(self) -> bool:
        """Return whether Prometheus has scraped every process that runs."""
        scraped = await self.prometheus.scrapes()
        return {process.target.rpartition(":")[0] for process in self.processes} <= set(scraped)

    async def _migrate(self) -> None:
        """Make the tables of the shadow store, from the host of the worker."""
        environment = self.environment(self.bundles.student, ask=True)
        program = Reflux(self.network, WORKER, PORT, "migrate", environment, self.folder / "migrate.log")
        await program.start()
        await program.finished(PATIENCE)

    def _python(self, host: str, module: str, *arguments: str) -> Program:
        command = (sys.executable, "-m", module, *arguments)
        return Program(self.network, host, command, os.environ, self.folder / f"{module.rpartition('.')[2]}.log")


async def answers(url: str) -> bool:
    """Return whether a GET of `url` succeeds."""
    try:
        async with httpx.AsyncClient(timeout=2) as client:
            return (await client.get(url)).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
