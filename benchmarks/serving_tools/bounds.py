"""What our server is held to: comparisons that keep their bound or do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving_tools.contenders import BARE, HAND, PREVIOUS
from serving_tools.measure import CLIENTS, Measured, over


@dataclass(frozen=True, slots=True)
class Bound:
    """A comparison with the bound it is to keep: at least `least`, or at most `most`."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; what could not be measured keeps none."""
        if math.isnan(self.value):
            return False
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def line(self) -> str:
        """The bound as a line of the report."""
        bound = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        return f"{'pass' if self.holds else 'FAIL'}  {self.value:8.3f}  ({bound})  {self.name}"


@dataclass(frozen=True, slots=True)
class Part:
    """What a part of the benchmark found, and the bounds it is held to."""

    found: Mapping[str, Any]
    bounds: Sequence[Bound]


def bounds(ours: Measured, others: Sequence[Measured]) -> list[Bound]:
    """The comparisons of our server with the loop and with the peers, as far as they were measured.

    Each is of medians over the rounds. The server by hand is nobody's product: it is compared in memory alone. The bare
    one is a limit, and in no bound.
    """
    found = []
    peers = [other for other in others if other.key not in (BARE, HAND, PREVIOUS)]
    for clients in CLIENTS[1:]:
        share = over(ours.closed[clients], lambda one: one.share)
        best = max(_known(over(peer.closed[clients], lambda one: one.share) for peer in peers), default=math.nan)
        name = f"throughput at {clients} clients"
        found.append(Bound(f"{name} / the loop's", share, least=1.0))
        if peers:
            found.append(Bound(f"{name} / the best peer's", ratio(share, best), least=1.5))
    found.append(Bound("p99 / p50 at 64 clients", over(ours.closed[64], lambda one: one.tail), most=1.4))
    added = over(ours.closed[1], lambda one: one.added)
    found.append(Bound("p50 at 1 client less the loop's text, ms", added, most=0.2))
    if peers:
        best = min(_known(over(peer.opened[0.7], lambda one: one.p99) for peer in peers), default=math.nan)
        p99 = over(ours.opened[0.7], lambda one: one.p99)
        found.append(Bound("p99 at 70 % load / the best peer's", ratio(p99, best), most=0.6))
    for before in (other for other in others if other.key == PREVIOUS):
        found += _against_previous(ours, before)
    for by_hand in (other for other in others if other.key == HAND):
        more = ours.memory.megabytes - by_hand.memory.megabytes
        found.append(Bound("memory less that of the server by hand, MB", more, most=40.0))
    found.append(Bound("seconds until ready", ours.ready_seconds, most=2.0))
    found.append(Bound("requests without an answer 200, up to 70 % load", failures(ours, most=0.7), most=0))
    return found


def _against_previous(ours: Measured, before: Measured) -> list[Bound]:
    """The comparisons with another checkout of this repository."""
    found = []
    for clients in CLIENTS:
        shares = [over(one.closed[clients], lambda load: load.share) for one in (ours, before)]
        least = 0.95 if clients == CLIENTS[0] else 0.97
        found.append(Bound(f"throughput at {clients} clients / the previous one's", ratio(*shares), least=least))
    found.append(
        Bound("seconds until ready / the previous one's", ratio(ours.ready_seconds, before.ready_seconds), most=1.1)
    )
    more = ours.memory.megabytes - before.memory.megabytes
    found.append(Bound("memory less that of the previous one, MB", more, most=5.0))
    return found


def ratio(value: float, to: float) -> float:
    """One number in terms of another; NaN where that is 0."""
    return value / to if to else math.nan


def failures(measured: Measured, most: float = 1.0) -> int:
    """The requests without an answer 200, of all rounds, up to a share of the capacity."""
    opened = [rounds for share, rounds in measured.opened.items() if share <= most]
    return sum(one.load.failed for rounds in (*measured.closed.values(), *opened, measured.same) for one in rounds)


def _known(values: Iterable[float]) -> list[float]:
    """Those that were measured."""
    return [value for value in values if not math.isnan(value)]
