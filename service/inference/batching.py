"""Which of the waiting texts share the next run. Pure decisions: no thread, no clock, no graph.

A run costs its padded tokens, rows x longest, and something beside; so a text may join when the padding that it brings
costs no more than a run of its own would. A packed graph has no padding, but its attention is as wide as the longest
text: there the oldest go together, in as many runs, by length, as cost the least. The oldest is always among them:
whatever else arrives, no text waits for more runs than there were texts before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol, TypeVar

CHARACTERS_PER_TOKEN = 4
"""Of English text in word pieces; good enough to predict a wait by, before a text is tokenised."""

WINDOW = 64
"""So many of the oldest are considered for a run where lengths matter."""

_SPECIAL_TOKENS = 2

_WIDTH_PER_TOKEN = 1024
"""In a run whose longest text has so many tokens, attention costs a token of a packed graph as much as all the rest."""

_WORTH = 8
"""A packed run takes more texts until they cost so many times what it costs beside them."""


class Sized(Protocol):
    """Something with a length in tokens."""

    @property
    def tokens(self) -> int:
        """At least 1."""


Item = TypeVar("Item", bound=Sized)

_tokens = attrgetter("tokens")


@dataclass(frozen=True, slots=True)
class Limits:
    """The most `tokens` and the most `rows` that are run together: padded tokens, unless the graph is `packed`.

    One text that is longer runs alone.
    """

    tokens: int
    rows: int = 64
    packed: bool = False

    def paid(self, batch: Sequence[Sized]) -> int:
        """The tokens that a run of a batch pays for."""
        longest = max(map(_tokens, batch))
        return int(packed_price(tokens_of(batch), longest)) if self.packed else len(batch) * longest


ALONE = Limits(tokens=1, rows=1)
"""Every text has a run of its own."""


def packed_price(tokens: int, longest: int) -> float:
    """The tokens that a run of a packed graph pays for, of texts with so many, the longest with so many."""
    return tokens * (1 + longest / _WIDTH_PER_TOKEN)


def tokens_of(items: Iterable[Sized]) -> int:
    """The tokens of all together."""
    return sum(map(_tokens, items))


def estimate_tokens(text: str, most: int) -> int:
    """The tokens that a graph which reads `most` will see of a text, guessed from its characters."""
    return min(len(text) // CHARACTERS_PER_TOKEN + _SPECIAL_TOKENS, most)


def window(waiting: Iterable[Sized], limits: Limits, slack: float, least: int) -> int:
    """How many of the oldest to consider for a run, by the tokens that they are thought to have; at least 1.

    For a packed graph so many, if they fit, that there are at least `least` and that their tokens cost `_WORTH` times
    what the run costs beside them, `slack` as in `choose`.
    """
    if not limits.packed:
        return WINDOW
    count = tokens = 0
    for count, item in enumerate(waiting):
        enough = count >= least and tokens >= _WORTH * slack
        tokens += item.tokens
        if enough or tokens > limits.tokens or count == limits.rows:
            return max(1, count)
    return count + 1


def choose(waiting: Sequence[Item], limits: Limits, slack: float) -> tuple[list[Item], list[Item]]:
    """Part `waiting`, oldest first and not empty, into the next batch and what goes on waiting, in its order.

    Those nearest to the oldest in length join first. `slack` is what a run costs beside its tokens, in tokens: so much
    padding may each of them bring.
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
    """As many of the oldest as fit, in their order."""
    tokens = waiting[0].tokens
    count = 1
    for item in waiting[1 : limits.rows]:
        tokens += item.tokens
        if tokens > limits.tokens:
            break
        count += 1
    return list(waiting[:count]), list(waiting[count:])


def by_length(batch: Sequence[Item], slack: float) -> list[list[Item]]:
    """Part a packed graph's batch, not empty, into the runs that cost the least together, each of texts of like length.

    `slack` is as in `choose`. The best parts of the shortest texts are the best of fewer of them, and one run more.
    """
    tokens = tokens_of(batch)
    if packed_price(tokens, max(map(_tokens, batch))) - tokens <= slack:
        return [list(batch)]  # all that could be spared costs no more than one more run
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
