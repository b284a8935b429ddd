"""The texts that wait for a run, oldest first. It decides nothing; who uses it from several threads holds a lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from heapq import merge

from service.inference.batching import Limits, tokens_of, window
from service.inference.types import Item, Request, age


class Waiting:
    """A queue of texts that knows their tokens."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self.tokens = 0
        """Of all together, estimated for those that were not tokenised."""

        self.changes = 0
        """How often it became another queue."""

    def __len__(self) -> int:
        return len(self._items)

    def add(self, items: Iterable[Item]) -> None:
        """Append the texts of a request that has just come."""
        self._items.extend(items)
        self._changed(tokens_of(items))

    def take(self, limits: Limits, slack: float) -> list[Item]:
        """Take the oldest texts off, as many as are to be considered for a run; `slack` as in `batching.choose`."""
        one = len(self._items) == 1 or limits.rows == 1
        count = 1 if one else min(window(self._items, limits, slack, self._half()), len(self._items))
        items = [self._items.popleft() for _ in range(count)]
        self._changed(-tokens_of(items))
        return items

    def put_back(self, items: list[Item]) -> None:
        """Put texts back at their place: another thread may have put back older ones."""
        self._changed(tokens_of(items))
        if items and self._items and age(self._items[0]) < age(items[-1]):
            items = [*merge(items, self._items, key=age)]
            self._items.clear()
        self._items.extendleft(reversed(items))

    def withdraw(self, request: Request) -> None:
        """Take off what waits of a request."""
        kept = [item for item in self._items if item.request is not request]
        self._items.clear()
        self._items.extend(kept)
        self._changed(tokens_of(kept) - self.tokens)

    def _half(self) -> int:
        """How many are half of the texts, to the end of a request.

        Those that share a run are answered together: were it all, the oldest would wait for the newest.
        """
        items = self._items
        half = (len(items) + 1) // 2
        while half < len(items) and items[half].request is items[half - 1].request:
            half += 1
        return half

    def _changed(self, tokens: int) -> None:
        self.tokens += tokens
        self.changes += 1
