"""The loop without a server, measured between the loads of the servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from serving_tools.conditions import Conditions
from serving_tools.jobs import begin, finish, spawn
from serving_tools.loop import Loop
from serving_tools.plan import Load
from serving_tools.running import STALLED_MS, TRIES, again

LOOP_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Beside:
    """A load, and the loop just before and after it, because the machine's speed changes from minute to minute."""

    load: Load
    loop: Loop

    @property
    def share(self) -> float:
        """Return the throughput divided by the loop's."""
        return self.load.throughput / self.loop.throughput

    @property
    def offered(self) -> float:
        """Return the rate of an open loop divided by the loop's throughput."""
        return self.load.offered / self.loop.throughput

    @property
    def added(self) -> float:
        """Return the milliseconds that the median answer takes longer than a text in the loop."""
        return self.load.latency.p50 - self.loop.milliseconds

    @property
    def p50(self) -> float:
        """Return the median divided by the time of a text in the loop."""
        return self.load.latency.p50 / self.loop.milliseconds

    @property
    def tail(self) -> float:
        """Return the p99 divided by the median."""
        return self.load.latency.p99 / self.load.latency.p50

    @property
    def p99(self) -> float:
        """Return the p99 divided by the time of a text in the loop."""
        return self.load.latency.p99 / self.loop.milliseconds


class Limit:
    """The loop as a process on the server's core, idle while a server is measured. `last` is its last measurement."""

    def __init__(self, conditions: Conditions) -> None:
        self._process = spawn("loop")
        self._tell(json.dumps(_plan(conditions.bundle, conditions.texts, conditions.server_core)))
        self.loops: list[Loop] = []

    @property
    def last(self) -> Loop:
        """Return the last measurement of the loop."""
        return self.loops[-1]

    def measure(self) -> None:
        """Measure the loop now."""
        for _ in range(TRIES):
            self._tell(str(LOOP_SECONDS))
            assert self._process.stdout is not None
            loop = Loop(**json.loads(self._process.stdout.readline()))
            if loop.most <= STALLED_MS:
                break
            again(loop.most)
        self.loops.append(loop)

    def beside(self, send: Callable[[], Load]) -> Beside:
        """Send a load, and return it with the mean of the loop before and after it."""
        before, load = self.last, send()
        self.measure()
        return Beside(load, _over([before, self.last], mean))

    def typical(self) -> Loop:
        """Return the median of all measurements."""
        return _over(self.loops, median)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)


def _over(loops: Sequence[Loop], middle: Callable[[list[float]], float]) -> Loop:
    """Combine several measurements of the loop into one, by the given function."""
    throughput, milliseconds = [one.throughput for one in loops], [one.milliseconds for one in loops]
    return Loop(middle(throughput), middle(milliseconds), max(one.most for one in loops))


def labels_of(bundle: Path, texts: Sequence[str], core: int) -> list[str]:
    """Return the labels that the loop gives to the texts."""
    labels: list[str] = json.loads(finish(begin("loop", {**_plan(bundle, texts, core), "labels": True})))
    return labels


def _plan(bundle: Path, texts: Sequence[str], core: int) -> dict[str, Any]:
    return {"bundle": str(bundle.resolve()), "texts": list(texts), "core": core}
