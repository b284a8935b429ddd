"""The bounds of our server: each compares two figures and holds or fails."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving_tools.contenders import BARE, HAND, PREVIOUS
from serving_tools.measure import CLIENTS, Measured, over


@dataclass(frozen=True, slots=True)
class Bound:
    """A compared figure and its bound: it must be at least `least`, or at most `most`."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        """Return whether the bound holds. A figure that could not be measured fails."""
        if math.isnan(self.value):
            return False
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def line(self) -> str:
        """Format the bound as a line of the report."""
        bound = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        return f"{'pass' if self.holds else 'FAIL'}  {self.value:8.3f}  ({bound})  {self.name}"


@dataclass(frozen=True, slots=True)
class Part:
    """The results of a part of the benchmark, and their bounds."""

    found: Mapping[str, Any]
    bounds: Sequence[Bound]


def bounds(ours: Measured, others: Sequence[Measured]) -> list[Bound]:
    """Compare our server with the loop and with the peers that were measured, by medians over the rounds.

    The hand-written server is not a product, so only its memory is compared. The minimal one is a limit, not a peer.
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
    """Compare our server with Reflux of another checkout."""
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
    """Divide one number by another; NaN if the divisor is 0."""
    return value / to if to else math.nan


def failures(measured: Measured, most: float = 1.0) -> int:
    """Count the requests of all rounds without status 200, in loads up to a share of the capacity."""
    opened = [rounds for share, rounds in measured.opened.items() if share <= most]
    return sum(one.load.failed for rounds in (*measured.closed.values(), *opened, measured.same) for one in rounds)


def _known(values: Iterable[float]) -> list[float]:
    """Return the values that were measured."""
    return [value for value in values if not math.isnan(value)]
