"""Measuring one server: start, answers, memory, closed loop, open loop. And the loop with no server."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from types import MappingProxyType
from typing import Any

from export.bundle import Bundle, cpu_features
from serving_tools.contenders import Contender, Place
from serving_tools.environments import InstallError, python_of
from serving_tools.loop import Loop
from serving_tools.plan import OK, Load, Plan, load_of
from serving_tools.process import Memory, Server, ServerError, ask, free_port, plain_environment

CLIENTS = (1, 16, 64)
SHARES = (0.5, 0.7, 0.9)
CHECKED = 32
LOOP_SECONDS = 1.5
STARTS = 2
TRIES = 4
STALLED_MS = 250.0  # far more than a server that shares a machine costs the generator: the machine was paused
_BENCHMARKS = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same for every server of a run. Cores are numbers; times are in seconds.

    `labels` are those that the loop gives to the texts, `classes` all that there are.
    """

    bundle: Path
    student: Path | None
    texts: Sequence[str]
    labels: Sequence[str]
    classes: Sequence[str]
    environments: Path
    logs: Path
    server_core: int
    load_core: int
    seconds: float
    warm_up: float
    seed: int

    def told(self) -> dict[str, Any]:
        """What the results say of them."""
        manifest = Bundle.open(self.bundle).manifest
        return {
            "bundle": manifest.name,
            "version": manifest.version,
            "classes": len(self.classes),
            "texts": len(self.texts),
            "seconds": self.seconds,
            "warm_up": self.warm_up,
            "seed": self.seed,
            "cpu": cpu_features(),
        }


@dataclass(slots=True)
class Measured:
    """What was measured of one server. `closed` is by clients, `opened` by the share of its own capacity.

    `agreement` is the share of the first texts that got the label which the loop gives. `reason` says why it was not
    measured, or not to the end.
    """

    key: str
    title: str
    note: str
    ready_seconds: float = float("nan")
    memory: Memory = field(default_factory=lambda: Memory(float("nan"), 0))
    agreement: float = float("nan")
    closed: dict[int, Load] = field(default_factory=dict)
    opened: dict[float, Load] = field(default_factory=dict)
    closed_loops: dict[int, Loop] = field(default_factory=dict)
    """The loop just before and after each closed load: the machine's speed changes from minute to minute."""

    opened_loops: dict[float, Loop] = field(default_factory=dict)
    reason: str = ""

    @property
    def capacity(self) -> float:
        """The most answers a second that any closed loop got."""
        return max((load.throughput for load in self.closed.values()), default=0.0)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers, with what to send it."""

    server: Server
    contender: Contender
    conditions: Conditions
    bodies: Sequence[str]
    settings: Mapping[str, str]
    ready_seconds: float

    def load(self, **plan: Any) -> Load:
        """Send a load, to its end; `plan` has the fields of Plan that are not the same for all.

        One in which the generator itself was held up says nothing of the server, and is sent again.
        """
        for _ in range(TRIES - 1):
            load = _load(self.begin(**plan))
            if load.stalled_ms <= STALLED_MS:
                return load
            _again(load.stalled_ms)
        return _load(self.begin(**plan))

    def begin(self, **plan: Any) -> subprocess.Popen[str]:
        """Begin to send a load."""
        usual = {
            "port": self.server.port,
            "path": self.contender.path,
            "bodies": self.bodies,
            "core": self.conditions.load_core,
            "seed": self.conditions.seed,
            "seconds": self.conditions.seconds,
            "warm_up": self.conditions.warm_up,
        }
        return _begin("load", asdict(Plan(**{**usual, **plan})))

    def memory(self) -> Memory:
        """The memory in the middle of a load of its own: reading it stops a process for a moment."""
        process = self.begin(clients=16, seconds=1.0, warm_up=0.0)
        time.sleep(0.7)
        memory = self.server.memory()
        _load(process)
        return memory

    def get(self, path: str) -> bytes:
        """What the server answers to a GET."""
        return ask(self.server.port, path).body

    def agreement(self) -> float:
        """The share of the first texts that are answered with the loop's label; NaN of who answers no labels."""
        if self.contender.label is None:
            return float("nan")
        pairs = list(zip(self.bodies, self.conditions.labels, strict=True))[:CHECKED]
        same = 0
        for body, label in pairs:
            try:
                reply = ask(self.server.port, self.contender.path, body)
            except OSError as error:
                raise ServerError(f"does not answer: {error}; {self.server.tail()}") from error
            same += reply.status == OK and self.contender.label(json.loads(reply.body)) == label
        return same / len(pairs)


@contextmanager
def running(
    contender: Contender, conditions: Conditions, settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Running]:
    """A started server, with more settings of its environment; it is stopped afterwards.

    Raises InstallError or ServerError.
    """
    if contender.needs_student and conditions.student is None:
        raise ServerError("not started: it takes the trained student, give --student")
    python = Path(sys.executable)
    if contender.environment is not None:
        python = python_of(conditions.environments, contender.environment)
    bodies = [json.dumps(contender.body(text)) for text in conditions.texts]
    with tempfile.TemporaryDirectory(prefix="serving-") as work:
        place = Place(python, conditions.bundle, conditions.student, Path(work), free_port())
        contender.prepare(place)
        server = Server(
            contender.command(place),
            port=place.port,
            core=conditions.server_core,
            log=conditions.logs / f"{contender.key}.log",
            environment={**contender.settings(place), **settings},
            folder=place.work,
        )
        with server:
            ready = server.wait(contender.path, bodies[0])
            yield Running(server, contender, conditions, bodies, settings, ready)


def measure(contender: Contender, conditions: Conditions, limit: Limit) -> Measured:
    """Measure one server, and the limit between its loads. What fails is told in `reason`."""
    measured = Measured(contender.key, contender.title, contender.note)
    try:
        starts = []
        for _ in range(STARTS - 1):
            with running(contender, conditions) as one:
                starts.append(one.ready_seconds)
        with running(contender, conditions) as one:
            measured.ready_seconds = min(*starts, one.ready_seconds)
            measured.agreement = one.agreement()
            before = limit.measure()
            for count in CLIENTS:
                measured.closed[count] = one.load(clients=count)
                before, measured.closed_loops[count] = limit.between(before)
            measured.memory = one.memory()
            for share in SHARES:
                measured.opened[share] = one.load(rate=share * measured.capacity)
                before, measured.opened_loops[share] = limit.between(before)
    except InstallError as error:
        measured.reason = f"cannot be installed: {error}"
    except ServerError as error:
        measured.reason = str(error)
    except (ValueError, LookupError, TypeError) as error:
        measured.reason = f"its answer is not as expected: {error!r}"
    return measured


class Limit:
    """The loop with no server, on the server's core: a process that waits while a server is measured."""

    def __init__(self, conditions: Conditions) -> None:
        self._process = _spawn("loop")
        self._tell(json.dumps(_loop_plan(conditions.bundle, conditions.texts, conditions.server_core)))
        self.loops: list[Loop] = []

    def measure(self) -> Loop:
        """Measure it now."""
        for _ in range(TRIES):
            self._tell(str(LOOP_SECONDS))
            assert self._process.stdout is not None
            loop = Loop(**json.loads(self._process.stdout.readline()))
            if loop.most <= STALLED_MS:
                break
            _again(loop.most)
        self.loops.append(loop)
        return loop

    def between(self, before: Loop) -> tuple[Loop, Loop]:
        """Measure it now; that, and the mean of it and of what was measured before."""
        after = self.measure()
        return after, mean_of([before, after])

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)


def mean_of(loops: Sequence[Loop]) -> Loop:
    """Several measurements of the loop as one."""
    most = max(one.most for one in loops)
    return Loop(mean(one.throughput for one in loops), mean(one.milliseconds for one in loops), most)


def _again(stalled_ms: float) -> None:
    print(f"{'':10} the machine did not run for {stalled_ms:,.0f} ms; measuring again", flush=True)


def labels_of(bundle: Path, texts: Sequence[str], core: int) -> list[str]:
    """The labels that the loop gives to texts."""
    labels: list[str] = json.loads(_finish(_begin("loop", {**_loop_plan(bundle, texts, core), "labels": True})))
    return labels


def _loop_plan(bundle: Path, texts: Sequence[str], core: int) -> dict[str, Any]:
    return {"bundle": str(bundle.resolve()), "texts": list(texts), "core": core}


def _spawn(module: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"serving_tools.{module}"],
        env=plain_environment(),
        cwd=_BENCHMARKS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _begin(module: str, plan: Mapping[str, Any]) -> subprocess.Popen[str]:
    process = _spawn(module)
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan))
    process.stdin.close()
    process.stdin = None
    return process


def _finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    if process.returncode:
        raise ServerError(f"{process.args!r} ended with status {process.returncode}")
    return output


def _load(process: subprocess.Popen[str]) -> Load:
    return load_of(json.loads(_finish(process)))
