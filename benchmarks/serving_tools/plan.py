"""The plan of a load, and the load as measured: the input and the output of the load generator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OK = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send where. With `clients` it is a closed loop, with `rate` (requests per second) an open one.

    `bodies` are sent in turn. The first `warm_up` seconds do not count. `most_connections` bounds an open loop: beyond
    it a request waits for a connection, and that wait is part of its latency.
    """

    port: int
    path: str
    bodies: Sequence[str]
    core: int
    clients: int = 0
    rate: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 6.0
    warm_up: float = 2.0
    seed: int = 0
    most_connections: int = 1024
    deadline_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Quantiles in milliseconds; NaN if nothing was counted."""

    count: int
    p50: float
    p99: float
    p999: float
    most: float


@dataclass(frozen=True, slots=True)
class Load:
    """The results of a load. `throughput` counts answers 200 per second, `latency` is theirs in ms.

    In an open loop an unanswered request counts in `latency` with the time waited so far. `statuses` counts every
    answer, with 0 for a lost connection; `others` has the latencies of each status other than 200. `waited` counts the
    requests that found all connections busy. `late_p99` is the delay of the generator itself in ms, and `stalled_ms`
    the longest time in which it did not run, because the machine was paused or busy. `within` is the share of answers
    200 within the deadline from the intended time of sending, `within_sent` from the actual time.
    """

    seconds: float
    offered: float
    throughput: float
    latency: Latency
    statuses: dict[str, int]
    others: dict[str, Latency]
    unanswered: int
    connections: int
    waited: int
    late_p99: float
    stalled_ms: float
    within: float
    within_sent: float

    @property
    def failed(self) -> int:
        """Return the number of requests without an answer 200."""
        return self.unanswered + sum(count for status, count in self.statuses.items() if status != str(OK))


def requests_of(plan: Plan) -> Iterator[bytes]:
    """Return the requests of the plan as bytes."""
    more = "".join(f"{name}: {value}\r\n" for name, value in plan.headers.items())
    requests = []
    for body in plan.bodies:
        content = body.encode()
        head = (
            f"POST {plan.path} HTTP/1.1\r\nHost: 127.0.0.1:{plan.port}\r\nContent-Type: application/json\r\n"
            f"{more}Content-Length: {len(content)}\r\n\r\n"
        )
        requests.append(head.encode() + content)
    return itertools.cycle(requests)


def poisson(rate: float, seconds: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the arrival times, in seconds, of a Poisson process of `rate` arrivals per second."""
    random = np.random.default_rng(seed)
    count = random.poisson(rate * seconds)
    return np.sort(random.uniform(0.0, seconds, count))


def latency(milliseconds: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> Latency:
    """Return the quantiles of measured times."""
    if not len(milliseconds):
        return Latency(0, *[float("nan")] * 4)
    p50, p99, p999, most = (float(value) for value in np.quantile(milliseconds, [0.5, 0.99, 0.999, 1.0]))
    return Latency(len(milliseconds), p50, p99, p999, most)


def share(which: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """Return the share of true values; NaN if there are none."""
    return float(which.mean()) if len(which) else float("nan")


def load_of(found: Mapping[str, Any]) -> Load:
    """Read a load from its JSON."""
    others = {status: Latency(**quantiles) for status, quantiles in found["others"].items()}
    return Load(**{**found, "latency": Latency(**found["latency"]), "others": others})
