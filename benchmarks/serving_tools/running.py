"""A running server: send loads to it, read its memory, compare its labels."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving_tools.conditions import Conditions
from serving_tools.contenders import Contender, Place
from serving_tools.environments import python_of
from serving_tools.jobs import begin, finish
from serving_tools.plan import OK, Load, Plan, load_of
from serving_tools.process import Memory, Server, ServerError, ask, free_port

CHECKED = 32
TRIES = 4
STALLED_MS = 250.0  # far more than a server on the same machine costs the generator: the machine was paused


@dataclass(frozen=True, slots=True)
class Running:
    """A running server, and what to send it."""

    server: Server
    contender: Contender
    conditions: Conditions
    bodies: Sequence[str]
    ready_seconds: float

    def load(self, **plan: Any) -> Load:
        """Send a load and wait for its end; `plan` has the fields of Plan that differ between loads.

        If the generator itself was held up, the load says nothing about the server and is sent again.
        """
        for _ in range(TRIES - 1):
            load = _load(self.begin(**plan))
            if load.stalled_ms <= STALLED_MS:
                return load
            again(load.stalled_ms)
        return _load(self.begin(**plan))

    def begin(self, **plan: Any) -> subprocess.Popen[str]:
        """Start sending a load."""
        usual = {
            "port": self.server.port,
            "path": self.contender.path,
            "bodies": self.bodies,
            "core": self.conditions.load_core,
            "seed": self.conditions.seed,
            "seconds": self.conditions.seconds,
            "warm_up": self.conditions.warm_up,
        }
        return begin("load", asdict(Plan(**{**usual, **plan})))

    def memory(self) -> Memory:
        """Return the memory during a load of its own, because reading it stops a process for a moment."""
        process = self.begin(clients=16, seconds=1.0, warm_up=0.0)
        time.sleep(0.7)
        memory = self.server.memory()
        _load(process)
        return memory

    def get(self, path: str) -> bytes:
        """Send a GET and return the reply."""
        return ask(self.server.port, path).body

    def agreement(self) -> float:
        """Return the share of the first texts with the same label as in the loop; NaN if the server sends no labels."""
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
def running(contender: Contender, conditions: Conditions) -> Iterator[Running]:
    """Start a server, and stop it at the end. Raises InstallError or ServerError."""
    if contender.needs_student and conditions.student is None:
        raise ServerError("not started: it needs the trained student; give --student")
    python, bundle = Path(sys.executable), conditions.bundle
    if contender.environment is not None:
        python, bundle = python_of(conditions.environments, contender.environment), conditions.portable
    bodies = [json.dumps(contender.body(text)) for text in conditions.texts]
    with tempfile.TemporaryDirectory(prefix="serving-") as work:
        place = Place(python, bundle, conditions.student, Path(work), free_port())
        contender.prepare(place)
        server = Server(
            contender.command(place),
            port=place.port,
            cores={conditions.server_core},
            log=conditions.logs / f"{contender.key}.log",
            environment=contender.settings(place),
            folder=place.work,
        )
        with server:
            ready = server.wait(contender.path, bodies[0])
            yield Running(server, contender, conditions, bodies, ready)


def again(stalled_ms: float) -> None:
    """Print why something is measured again."""
    print(f"{'':10} the machine did not run for {stalled_ms:,.0f} ms; measuring again", flush=True)


def _load(process: subprocess.Popen[str]) -> Load:
    return load_of(json.loads(finish(process)))
