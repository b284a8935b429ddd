"""Measure one server: start, answers, closed and open loops in rounds, memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from serving_tools.conditions import Conditions
from serving_tools.contenders import Contender
from serving_tools.environments import InstallError
from serving_tools.limit import Beside, Limit
from serving_tools.process import Memory, ServerError
from serving_tools.running import TRIES, Running, running

CLIENTS = (1, 16, 64)
_TIMES = {1: 4}
"""Closed loops per round, by clients. With 1 client the machine's speed varies by more than the server adds."""

SHARES = (0.5, 0.7, 0.9)
SAME_LOAD = 0.4
"""The load that is the same for all servers, as a share of the loop's throughput: about 70 % of the best peer's."""

STARTS = 2

_NEAR = 0.1
"""Tolerance of a load's share of the capacity: the machine's speed changes between the loads."""

_LEAST_RATE = 10.0  # keeps a very slow server from being measured for minutes

Figure = Callable[[Beside], float]


@dataclass(slots=True)
class Measured:
    """The measurements of one server, by round. `closed` is by clients, `opened` by the share of its capacity.

    `same` is at `SAME_LOAD`, and empty if the server cannot answer that much. `agreement` is the share of the first
    texts with the same label as in the loop. `reason` says why the server was not measured, or not completely.
    """

    key: str
    title: str
    note: str
    ready_seconds: float = math.nan
    memory: Memory = field(default_factory=lambda: Memory(math.nan, 0))
    agreement: float = math.nan
    closed: dict[int, list[Beside]] = field(default_factory=lambda: {clients: [] for clients in CLIENTS})
    opened: dict[float, list[Beside]] = field(default_factory=lambda: {share: [] for share in SHARES})
    same: list[Beside] = field(default_factory=list)
    reason: str = ""

    @property
    def capacity(self) -> float:
        """Return the highest throughput of the closed loops, as a multiple of the loop's."""
        return max(over(rounds, lambda one: one.share) for rounds in self.closed.values())


def over(rounds: Sequence[Beside], figure: Figure) -> float:
    """Return the median of a figure over the rounds; NaN without rounds. A load without answers counts as infinite."""
    figures = [figure(one) for one in rounds]
    middle = median(math.inf if math.isnan(value) else value for value in figures) if figures else math.nan
    return middle if math.isfinite(middle) else math.nan


def measure(contender: Contender, conditions: Conditions, limit: Limit) -> Measured:
    """Measure one server, and the limit between its loads. A failure is recorded in `reason`."""
    measured = Measured(contender.key, contender.title, contender.note)
    try:
        starts = []
        for _ in range(STARTS - 1):
            with running(contender, conditions) as one:
                starts.append(one.ready_seconds)
        with running(contender, conditions) as one:
            measured.ready_seconds = min(*starts, one.ready_seconds)
            measured.agreement = one.agreement()
            limit.measure()
            for number in range(conditions.rounds):
                _round(measured, one, limit, number)
            measured.memory = one.memory()
    except InstallError as error:
        measured.reason = f"cannot be installed: {error}"
    except ServerError as error:
        measured.reason = str(error)
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        measured.reason = f"its answer is not as expected: {error!r}"
    return measured


def _round(measured: Measured, one: Running, limit: Limit, number: int) -> None:
    """Run one load of each kind. Rates follow the machine's present speed: the loop was measured just before."""
    for clients in CLIENTS:
        for _ in range(_TIMES.get(clients, 1)):
            measured.closed[clients].append(limit.beside(partial(one.load, clients=clients)))
    for share in SHARES:
        measured.opened[share].append(_opened(share, measured.capacity, one, limit, number))
    if measured.capacity > SAME_LOAD:
        measured.same.append(_opened(SAME_LOAD, 1.0, one, limit, number))


def _opened(share: float, capacity: float, one: Running, limit: Limit, number: int) -> Beside:
    """Send a load at a share of a capacity; of several attempts, return the one nearest to that share.

    The capacity and the rate are multiples of the loop's throughput.
    """
    conditions = one.conditions
    found: list[tuple[float, Beside]] = []
    while len(found) < TRIES and not (found and found[-1][0] <= _NEAR * share):
        rate = share * capacity * limit.last.throughput
        seconds = max(conditions.seconds, conditions.requests / max(rate, _LEAST_RATE))
        beside = limit.beside(partial(one.load, rate=rate, seconds=seconds, seed=conditions.seed + number))
        found.append((abs(beside.offered / capacity - share), beside))
    return min(found, key=lambda one: one[0])[1]
