"""Decide which of the waiting texts share the next run. Pure functions: no thread, no clock, no graph.

A run costs its padded tokens, rows x longest, plus a fixed cost; a text may join when the padding that it adds costs no
more than a run of its own. A packed graph has no padding, but its attention is as wide as the longest text: there the
oldest texts are taken together and parted by length into the cheapest runs. The oldest text is always taken, so no text
waits for more runs than there were texts before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol, TypeVar

CHARACTERS_PER_TOKEN = 4
"""Of English text in word pieces; accurate enough to predict a wait before a text is tokenised."""

WINDOW = 64
"""How many of the oldest texts are considered for a run that pads."""

SPECIAL_TOKENS = 2

_ATTENTION_WIDTH = 1024
"""Length of the longest text of a packed run at which attention costs as much as the rest of the graph."""

_FIXED_COST_RATIO = 8
"""A packed run takes more texts until their tokens cost this many times its fixed cost."""


class Sized(Protocol):
    """Anything with a length in tokens."""

    @property
    def tokens(self) -> int:
        """At least 1."""


Item = TypeVar("Item", bound=Sized)

_tokens = attrgetter("tokens")


@dataclass(frozen=True, slots=True)
class Limits:
    """At most `tokens` and at most `rows` texts share a run. The tokens include padding unless the graph is `packed`.

    A text with more than `tokens` runs alone.
    """

    tokens: int
    rows: int = 64
    packed: bool = False

    def paid(self, batch: Sequence[Sized]) -> int:
        """Return the tokens that a run of `batch` pays for: padded, or weighted with the cost of attention."""
        longest = max(map(_tokens, batch))
        return int(packed_price(tokens_of(batch), longest)) if self.packed else len(batch) * longest


ALONE = Limits(tokens=1, rows=1)
"""Limits under which every text has a run of its own."""


def packed_price(tokens: int, longest: int) -> float:
    """Return the cost in tokens of a packed run of `tokens` in total, `longest` being those of its longest text."""
    return tokens * (1 + longest / _ATTENTION_WIDTH)


def tokens_of(items: Iterable[Sized]) -> int:
    """Return the sum of their tokens."""
    return sum(map(_tokens, items))


def window(waiting: Iterable[Sized], limits: Limits, slack: float, least: int) -> int:
    """Return how many of the oldest texts to consider for a run, by their estimated tokens; at least 1.

    For a packed graph, if they fit, as many that there are at least `least` and that their tokens cost at least
    `_FIXED_COST_RATIO` times `slack`, the fixed cost of a run in tokens.
    """
    if not limits.packed:
        return WINDOW
    count = tokens = 0
    for count, item in enumerate(waiting):
        enough = count >= least and tokens >= _FIXED_COST_RATIO * slack
        tokens += item.tokens
        if enough or tokens > limits.tokens or count == limits.rows:
            return max(1, count)
    return count + 1


def choose(waiting: Sequence[Item], limits: Limits, slack: float) -> tuple[list[Item], list[Item]]:
    """Split `waiting`, oldest first and not empty, into the next batch and the rest, each in the given order.

    The texts nearest to the oldest in length join first. Each may add at most `slack` padding: the fixed cost of a run
    in tokens.
    """
    if len(waiting) == 1:
        return [waiting[0]], []
    if limits.packed:
        return _oldest(waiting, limits)
    oldest = waiting[0]
    chosen, longest = {0}, oldest.tokens
    for place in sorted(range(1, len(waiting)), key=lambda place: abs(waiting[place].tokens - oldest.tokens)):
        length = waiting[place].tokens
        longest_then = max(longest, length)
        rows = len(chosen) + 1
        padding = rows * longest_then - len(chosen) * longest - length
        if rows > limits.rows or rows * longest_then > limits.tokens or padding > slack:
            break
        chosen.add(place)
        longest = longest_then
    batch = [waiting[place] for place in sorted(chosen)]
    return batch, [item for place, item in enumerate(waiting) if place not in chosen]


def _oldest(waiting: Sequence[Item], limits: Limits) -> tuple[list[Item], list[Item]]:
    """Split off as many of the oldest texts as fit, in their order."""
    tokens = waiting[0].tokens
    count = 1
    for item in waiting[1 : limits.rows]:
        tokens += item.tokens
        if tokens > limits.tokens:
            break
        count += 1
    return list(waiting[:count]), list(waiting[count:])


def by_length(batch: Sequence[Item], slack: float) -> list[list[Item]]:
    """Split a packed graph's batch, not empty, into runs of texts of similar length that cost the least in total.

    `slack` is as in `choose`. Dynamic programming over the texts sorted by length: the best partition of the shortest n
    is the best partition of fewer of them plus one run.
    """
    tokens = tokens_of(batch)
    if packed_price(tokens, max(map(_tokens, batch))) - tokens <= slack:
        return [list(batch)]  # one more run would cost more than it could save
    ordered = sorted(batch, key=_tokens)
    least, begins = [0.0], [0]
    for end, longest in enumerate(map(_tokens, ordered), start=1):
        tokens, best, begin = 0, math.inf, end
        for first in range(end - 1, -1, -1):
            tokens += ordered[first].tokens
            cost = least[first] + slack + packed_price(tokens, longest)
            if cost <= best:
                best, begin = cost, first
        least.append(best)
        begins.append(begin)
    runs, end = [], len(ordered)
    while end:
        runs.append(ordered[begins[end] : end])
        end = begins[end]
    return runs
