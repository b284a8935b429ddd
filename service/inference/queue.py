"""The texts that wait for a run, oldest first. It makes no decisions; threads that share it hold a lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from heapq import merge

from service.inference.batching import Limits, tokens_of, window
from service.inference.types import Item, Submission, age


class Queue:
    """A queue of texts that knows the sum of their tokens."""

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        """To read; only the methods change it."""

        self.tokens = 0
        """Of all items together, estimated for those that are not tokenised."""

    def add(self, items: Iterable[Item], tokens: int) -> None:
        """Append the items of a new submission, which have `tokens` in total."""
        self.items.extend(items)
        self.tokens += tokens

    def take(self, limits: Limits, slack: float, *, whole: bool = False) -> list[Item]:
        """Remove and return the oldest items, as many as are considered for a run; `slack` as in `batching.choose`.

        Of a packed graph's texts that is about half of the queue, or with `whole` all of it, if they fit.
        """
        if len(self.items) == 1 or limits.rows == 1:
            taken = [self.items.popleft()]
        else:
            least = len(self.items) if whole else self._half()
            count = min(window(self.items, limits, slack, least), len(self.items))
            taken = [self.items.popleft() for _ in range(count)]
        for item in taken:
            self.tokens -= item.tokens
        return taken

    def put_back(self, items: list[Item]) -> None:
        """Return items to their place: another thread may have put back older ones before."""
        if items and self.items and age(self.items[0]) < age(items[-1]):
            self.insert(items)
            return
        self.tokens += tokens_of(items)
        self.items.extendleft(reversed(items))

    def insert(self, items: list[Item]) -> None:
        """Add items, sorted by age, each in its place; they may be older than those that wait."""
        self.tokens += tokens_of(items)
        if items and self.items and age(items[0]) < age(self.items[-1]):
            items = [*merge(items, self.items, key=age)]
            self.items.clear()
        self.items.extend(items)

    def withdraw(self, submission: Submission) -> None:
        """Remove the items of a submission."""
        kept = [item for item in self.items if item.submission is not submission]
        self.items.clear()
        self.items.extend(kept)
        self.tokens = tokens_of(kept)

    def _half(self) -> int:
        """Return the size of half of the queue, extended to the end of a submission.

        Texts that share a run are answered together: in a run of the whole queue the oldest would wait for the newest.
        """
        items = self.items
        half = (len(items) + 1) // 2
        while half < len(items) and items[half].submission is items[half - 1].submission:
            half += 1
        return half
