"""Measuring one server: start, answers, closed loop and open loop in rounds, memory."""

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
"""How often a round has a closed loop: with 1 client the machine's speed changes by more than what the server adds."""

SHARES = (0.5, 0.7, 0.9)
SAME_LOAD = 0.4
"""What is asked of every server alike, in terms of the loop: about 70 % of what the best of the others can answer."""

STARTS = 2

_NEAR = 0.1
"""A load may be so far from the share of the capacity that it was to be: the machine grows faster and slower."""

_LEAST_RATE = 10.0  # so that a server that gives next to nothing is not measured for minutes

Figure = Callable[[Beside], float]


@dataclass(slots=True)
class Measured:
    """What was measured of one server, round by round. `closed` is by clients, `opened` by the share of its capacity.

    `same` is at `SAME_LOAD`, empty where that is more than it can answer. `agreement` is the share of the first texts
    that got the label which the loop gives. `reason` says why it was not measured, or not to the end.
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
        """The most that any number of clients got, in terms of the loop."""
        return max(over(rounds, lambda one: one.share) for rounds in self.closed.values())


def over(rounds: Sequence[Beside], figure: Figure) -> float:
    """The median of a figure over the rounds; NaN where there is none. A load that got no answer took for ever."""
    figures = [figure(one) for one in rounds]
    middle = median(math.inf if math.isnan(value) else value for value in figures) if figures else math.nan
    return middle if math.isfinite(middle) else math.nan


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
    """One load of each kind. The rates are of what the machine gives now: the loop was measured just before."""
    for clients in CLIENTS:
        for _ in range(_TIMES.get(clients, 1)):
            measured.closed[clients].append(limit.beside(partial(one.load, clients=clients)))
    for share in SHARES:
        measured.opened[share].append(_opened(share, measured.capacity, one, limit, number))
    if measured.capacity > SAME_LOAD:
        measured.same.append(_opened(SAME_LOAD, 1.0, one, limit, number))


def _opened(share: float, capacity: float, one: Running, limit: Limit, number: int) -> Beside:
    """A load at a share of a capacity; of several that the machine made another share of, the nearest one.

    The capacity is in terms of the loop, as is what was sent.
    """
    conditions = one.conditions
    found: list[tuple[float, Beside]] = []
    while len(found) < TRIES and not (found and found[-1][0] <= _NEAR * share):
        rate = share * capacity * limit.last.throughput
        seconds = max(conditions.seconds, conditions.requests / max(rate, _LEAST_RATE))
        beside = limit.beside(partial(one.load, rate=rate, seconds=seconds, seed=conditions.seed + number))
        found.append((abs(beside.offered / capacity - share), beside))
    return min(found, key=lambda one: one[0])[1]
