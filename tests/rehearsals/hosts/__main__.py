"""`python -m tests.rehearsals.hosts`, or `make rehearse-hosts`: all cases; the exit status is 1 if one does not hold.

Files of a rehearsal that failed are kept until the next one.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.rehearsals.hosts import table
from tests.rehearsals.hosts.cases import CASES, CUT_SECONDS, SOON_SECONDS, Case
from tests.rehearsals.hosts.cluster import HOSTS, Bundles, Cluster
from tests.rehearsals.hosts.errors import RehearsalError
from tests.rehearsals.hosts.examine import Findings, examine
from tests.rehearsals.hosts.load import Answered, read
from tests.rehearsals.hosts.needs import leftover, missing
from tests.rehearsals.hosts.network import Network
from tests.rehearsals.hosts.tolerance import Excuses

PREFIX = "reflux-hosts-"
LOCK = Path(tempfile.gettempdir()) / "reflux-hosts.lock"
UNFIT = 2
"""Exit status where a rehearsal cannot be held."""


async def rehearse(cluster: Cluster, cases: list[Case], per_second: float) -> bool:
    """Go through the cases, print the table, and return whether all hold."""
    every: list[Answered] = []
    excuses, wrong = Excuses(), False
    print(table.heading(), flush=True)
    for case in cases:
        latest = await _under_load(cluster, case, excuses, per_second)
        every += latest
        found = await examine(cluster, latest, every, excuses)
        print(table.row(case.name, found), flush=True)
        _complain(case, found)
        wrong = wrong or bool(found.wrong)
    return not wrong


async def _under_load(cluster: Cluster, case: Case, excuses: Excuses, per_second: float) -> list[Answered]:
    """Return the requests that clients sent before, during and after the trouble of a case."""
    trouble = asyncio.create_task(_after(SOON_SECONDS, cluster, case, excuses))
    requests: list[Answered] = []
    while True:
        clients, file = await cluster.load(SOON_SECONDS + CUT_SECONDS + SOON_SECONDS, per_second)
        await clients.finished(120.0)
        requests += read(file)
        if trouble.done():
            await trouble
            return requests


async def _after(seconds: float, cluster: Cluster, case: Case, excuses: Excuses) -> None:
    await asyncio.sleep(seconds)
    await case.trouble(cluster, excuses)


def _complain(case: Case, found: Findings) -> None:
    for problem in found.wrong[:10]:
        print(f"  {case.name}: {problem}", file=sys.stderr, flush=True)


async def _main(bundles: Bundles, cases: list[Case], per_second: float, folder: Path) -> bool:
    task = asyncio.current_task()
    assert task is not None, "this runs as a task"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the programs are ended in order
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with Network(HOSTS).running() as network:
        async with Cluster(network, folder, bundles).running() as cluster:
            return await rehearse(cluster, cases, per_second)


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="rehearse-hosts", description=__doc__)
    parser.add_argument("--bundles", type=Path, default=Path("runs/demo/bundles"), help="folder of a run's bundles")
    parser.add_argument("--student", default="static", help="the bundle that serves at first")
    parser.add_argument("--successor", default="encoder", help="the bundle of the update")
    parser.add_argument("--teacher", default="teacher", help="the bundle that answers as the teacher")
    parser.add_argument("--per-second", type=float, default=60.0, help="requests per second")
    parser.add_argument("--only", help="the cases whose names contain this")
    given = parser.parse_args()
    folder = given.bundles.resolve()
    bundles = Bundles(folder / given.student, folder / given.successor, folder / given.teacher)
    if lacking := missing(bundles):
        print("\n".join(f"rehearse-hosts: {problem}" for problem in lacking), file=sys.stderr)
        return UNFIT
    cases = [case for case in CASES if not given.only or given.only in case.name]
    if not cases:
        print(f"rehearse-hosts: no case is called so; there are: {', '.join(c.name for c in CASES)}", file=sys.stderr)
        return UNFIT
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("rehearse-hosts: another rehearsal runs on this machine; wait for its end", file=sys.stderr)
            return UNFIT
        for old in leftover(Path(tempfile.gettempdir()), PREFIX):
            shutil.rmtree(old)
        kept = Path(tempfile.mkdtemp(prefix=PREFIX))
        kept.chmod(0o711)  # PostgreSQL has an account of its own
        try:
            holds = asyncio.run(_main(bundles, cases, given.per_second, kept))
        except RehearsalError as error:
            print(f"rehearse-hosts: {error}\nLogs are in {kept}", file=sys.stderr)
            return UNFIT
        except asyncio.CancelledError:
            shutil.rmtree(kept)
            return 128 + signal.SIGINT
    if holds:
        shutil.rmtree(kept)
    else:
        print(f"rehearse-hosts: not everything holds; logs are in {kept}", file=sys.stderr)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
