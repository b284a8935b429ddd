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
from serving_tools.running import Running, running

CLIENTS = (1, 16, 64)
SHARES = (0.5, 0.7, 0.9)
STARTS = 2

Figure = Callable[[Beside], float]


@dataclass(slots=True)
class Measured:
    """What was measured of one server, round by round. `closed` is by clients, `opened` by the share of its capacity.

    `agreement` is the share of the first texts that got the label which the loop gives. `reason` says why it was not
    measured, or not to the end.
    """

    key: str
    title: str
    note: str
    ready_seconds: float = math.nan
    memory: Memory = field(default_factory=lambda: Memory(math.nan, 0))
    agreement: float = math.nan
    closed: dict[int, list[Beside]] = field(default_factory=lambda: {clients: [] for clients in CLIENTS})
    opened: dict[float, list[Beside]] = field(default_factory=lambda: {share: [] for share in SHARES})
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
                _round(measured, one, limit, conditions.seed + number)
            measured.memory = one.memory()
    except InstallError as error:
        measured.reason = f"cannot be installed: {error}"
    except ServerError as error:
        measured.reason = str(error)
    except (ValueError, LookupError, TypeError) as error:
        measured.reason = f"its answer is not as expected: {error!r}"
    return measured


def _round(measured: Measured, one: Running, limit: Limit, seed: int) -> None:
    """One load of each kind. The rates are of what the machine gives now: the loop was measured just before."""
    for clients in CLIENTS:
        measured.closed[clients].append(limit.beside(partial(one.load, clients=clients)))
    for share in SHARES:
        rate = share * measured.capacity * limit.last.throughput
        measured.opened[share].append(limit.beside(partial(one.load, rate=rate, seed=seed)))
