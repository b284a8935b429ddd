"""Our server at five times its capacity, with a deadline per request: how much it answers in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

import numpy as np

from serving_tools.bounds import Bound, Part, ratio
from serving_tools.conditions import Conditions
from serving_tools.contenders import REFLUX
from serving_tools.plan import Latency, Load
from serving_tools.running import Running, running

TIMES = 5
REFUSED = "429"
DEADLINE = "X-Request-Timeout-Ms"


@dataclass(frozen=True, slots=True)
class Round:
    """A load beyond the capacity, which is the mean throughput of 64 clients just before and after."""

    capacity: float
    load: Load

    @property
    def in_time(self) -> float:
        """Return the answers within the deadline, as a share of the capacity."""
        return ratio(self.load.throughput * self.load.within, self.capacity)

    @property
    def refused(self) -> Latency:
        """Return the latencies of the refusals."""
        return self.load.others.get(REFUSED, Latency(0, *[float("nan")] * 4))

    def line(self) -> str:
        """Format the round as a line of progress."""
        answers = ", ".join(f"{count:,} x {status}" for status, count in self.load.statuses.items())
        return (
            f"capacity {self.capacity:,.0f} req/s, offered {self.load.offered:,.0f}: {answers}, "
            f"{self.load.unanswered:,} unanswered; 429 after {self.refused.p50:.2f} ms (p99 {self.refused.p99:.2f}), "
            f"200 after {self.load.latency.p50:.1f} ms (p99 {self.load.latency.p99:.1f}); "
            f"the generator was late by {self.load.late_p99:.2f} ms (p99)"
        )


def overload(conditions: Conditions, deadline_ms: float) -> Part:
    """Run open loops whose requests have a deadline. Latencies count from the intended time of sending."""
    rounds: list[Round] = []
    with running(REFLUX, conditions) as one:
        before = _closed(one)
        for number in range(conditions.rounds):
            load = one.load(
                rate=TIMES * before,
                headers={DEADLINE: f"{deadline_ms:.0f}"},
                deadline_ms=deadline_ms,
                most_connections=4096,
                seed=conditions.seed + number,
            )
            after = _closed(one)
            rounds.append(Round(mean((before, after)), load))
            before = after
            print(f"round {number + 1}: {rounds[-1].line()}", flush=True)

    def over(figure: Callable[[Round], float]) -> float:
        return float(np.median([figure(one) for one in rounds]))

    print(f"p50 of answers 429: {over(lambda one: one.refused.p50):.2f} ms")
    bounds = [
        Bound("answers within the deadline / capacity", over(lambda one: one.in_time), least=0.9),
        Bound("share of answers 200 within the deadline", over(lambda one: one.load.within), least=0.99),
        Bound("p99 of answers 429, ms", over(lambda one: one.refused.p99), most=5.0),
    ]
    return Part({"deadline_ms": deadline_ms, "rounds": rounds}, bounds)


def _closed(one: Running) -> float:
    """Return the throughput of 64 clients."""
    return one.load(clients=64).throughput
