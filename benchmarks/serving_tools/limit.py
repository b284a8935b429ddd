"""The loop with no server, measured again and again between the loads of the servers."""

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
    """A load, and the loop just before and after it: the machine's speed changes from minute to minute."""

    load: Load
    loop: Loop

    @property
    def share(self) -> float:
        """The throughput in terms of the loop's."""
        return self.load.throughput / self.loop.throughput

    @property
    def offered(self) -> float:
        """What was sent in an open loop, in terms of the loop's throughput."""
        return self.load.offered / self.loop.throughput

    @property
    def added(self) -> float:
        """By how many milliseconds the median answer takes longer than the loop's text."""
        return self.load.latency.p50 - self.loop.milliseconds

    @property
    def tail(self) -> float:
        """The p99 in terms of the median."""
        return self.load.latency.p99 / self.load.latency.p50

    @property
    def p99(self) -> float:
        """The p99 in terms of the loop's text."""
        return self.load.latency.p99 / self.loop.milliseconds


class Limit:
    """The loop on the server's core: a process that waits while a server is measured. `last` is what it did last."""

    def __init__(self, conditions: Conditions) -> None:
        self._process = spawn("loop")
        self._tell(json.dumps(_plan(conditions.bundle, conditions.texts, conditions.server_core)))
        self.loops: list[Loop] = []

    @property
    def last(self) -> Loop:
        """The loop as measured last."""
        return self.loops[-1]

    def measure(self) -> None:
        """Measure it now."""
        for _ in range(TRIES):
            self._tell(str(LOOP_SECONDS))
            assert self._process.stdout is not None
            loop = Loop(**json.loads(self._process.stdout.readline()))
            if loop.most <= STALLED_MS:
                break
            again(loop.most)
        self.loops.append(loop)

    def beside(self, send: Callable[[], Load]) -> Beside:
        """Send a load, with the mean of what was measured last and of what is measured after it."""
        before, load = self.last, send()
        self.measure()
        return Beside(load, _over([before, self.last], mean))

    def typical(self) -> Loop:
        """The median of all that was measured."""
        return _over(self.loops, median)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)


def _over(loops: Sequence[Loop], middle: Callable[[list[float]], float]) -> Loop:
    """Several measurements of the loop as one."""
    throughput, milliseconds = [one.throughput for one in loops], [one.milliseconds for one in loops]
    return Loop(middle(throughput), middle(milliseconds), max(one.most for one in loops))


def labels_of(bundle: Path, texts: Sequence[str], core: int) -> list[str]:
    """The labels that the loop gives to texts."""
    labels: list[str] = json.loads(finish(begin("loop", {**_plan(bundle, texts, core), "labels": True})))
    return labels


def _plan(bundle: Path, texts: Sequence[str], core: int) -> dict[str, Any]:
    return {"bundle": str(bundle.resolve()), "texts": list(texts), "core": core}
