"""The cases: what happens to the deployment while clients go on asking."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.rehearsals.hosts.cluster import DATABASE, SERVING, TEACHER, WORKER, Cluster, Reflux
from tests.rehearsals.hosts.tolerance import Excuses, Span

CUT_SECONDS = 8.0
"""How long a link stays cut: longer than the deadline of a question to the teacher, and than a probe's patience."""

AWAY_SECONDS = 3.0
"""How long what was killed stays away."""

SOON_SECONDS = 3.0
"""How long everything is well before the trouble, and after it."""

Trouble = Callable[[Cluster, Excuses], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """A `trouble` that comes while clients ask; `promise` says what of it they may notice."""

    name: str
    promise: str
    trouble: Trouble


async def _nothing(cluster: Cluster, excuses: Excuses) -> None:
    await asyncio.sleep(CUT_SECONDS)


async def _cut_database(cluster: Cluster, excuses: Excuses) -> None:
    cluster.network.cut(SERVING[0], DATABASE)
    await asyncio.sleep(CUT_SECONDS)
    cluster.network.mend(SERVING[0], DATABASE)


async def _cut_teacher(cluster: Cluster, excuses: Excuses) -> None:
    cluster.network.cut(WORKER, TEACHER)
    await asyncio.sleep(CUT_SECONDS)
    cluster.network.mend(WORKER, TEACHER)


async def _kill_serving(cluster: Cluster, excuses: Excuses) -> None:
    host = SERVING[0]
    sent = time.time()
    await cluster.serving[host].end(signal.SIGKILL)
    excuses.dying.append(Span(host, sent, time.time()))
    await asyncio.sleep(AWAY_SECONDS)
    await _start(cluster.serving[host], excuses)


async def _kill_worker(cluster: Cluster, excuses: Excuses) -> None:
    sent = time.time()
    await cluster.worker.end(signal.SIGKILL)
    excuses.dying.append(Span(WORKER, sent, time.time()))
    await asyncio.sleep(AWAY_SECONDS)
    await _start(cluster.worker, excuses)


async def _restart_database(cluster: Cluster, excuses: Excuses) -> None:
    await cluster.database.crash()
    await asyncio.sleep(AWAY_SECONDS)
    await cluster.database.start()


async def _restart_serving(cluster: Cluster, excuses: Excuses) -> None:
    for host in SERVING:
        await cluster.serving[host].end()
        await _start(cluster.serving[host], excuses)


async def _update(cluster: Cluster, excuses: Excuses) -> None:
    """Update worker and serving hosts to the next bundle, one after another, as a Deployment does."""
    await _start(cluster.next_worker, excuses)
    for host in SERVING:
        await cluster.serving[host].end()
        await _start(cluster.serving[host], excuses, cluster.environment(cluster.bundles.successor, ask=False))
    await cluster.nothing_waits(cluster.worker)  # what the old bundle answered is compared by its own worker
    await cluster.worker.end()


async def _start(process: Reflux, excuses: Excuses, environment: dict[str, str] | None = None) -> None:
    """Start a process, from now on with `environment` if it is given, and wait until it is ready."""
    excuses.starts.append((process.host, time.time()))
    await process.start(environment)
    await process.until(process.ready)


CASES = (
    Case("nothing happens", "all are answered", _nothing),
    Case("link serving-1 - database cut", "all are answered; samples wait in memory", _cut_database),
    Case("link worker - teacher cut", "all are answered; what was asked meanwhile is counted as lost", _cut_teacher),
    Case("database crashes", "all are answered; samples wait in memory", _restart_database),
    Case("worker killed", "all are answered; another takes its texts over", _kill_worker),
    Case("serving-1 killed", "all but those in flight on it are answered", _kill_serving),
    Case("serving hosts restarted", "all are answered", _restart_serving),
    Case("update to another bundle", "all are answered", _update),
)
"""In this order: the last one changes the bundle."""
