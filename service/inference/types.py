"""What the scheduler keeps of a request, of each of its texts, and of a run. Plain data, no decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from export.bundle.classifier import Encoded, Prediction
from service.inference.runner import Done, Leaving, Staged

Outcome = Prediction | Exception


@dataclass(slots=True, eq=False)
class Request:
    """The texts of one request and what is known of their answers. Times are of `time.monotonic()`."""

    texts: Sequence[str]
    done: Done
    deadline: float
    submitted: float
    leaving: Leaving | None
    staged: Staged | None
    predictions: dict[int, Prediction] = field(default_factory=dict)
    settled: bool = False
    watch: asyncio.Task[None] | None = None


@dataclass(slots=True, eq=False)
class Item:
    """One text of a request. `tokens` are estimated until it is `encoded`."""

    request: Request
    index: int
    tokens: int
    encoded: Encoded | None = None


class Batch(NamedTuple):
    """What the graph ran at once, and how long it took."""

    items: list[Item]
    seconds: float


@dataclass(slots=True, eq=False)
class Run:
    """What was taken at once has come to: each item with its outcome, the graph's batches, and how long all took."""

    began: float
    due: float = 0.0
    """When it should be over."""

    outcomes: list[tuple[Item, Outcome]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    seconds: float = 0.0
    occupied: float = 0.0


def age(item: Item) -> float:
    """When its request came."""
    return item.request.submitted
