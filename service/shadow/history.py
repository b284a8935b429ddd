"""The counts of one bundle version and one teacher, in cells of time slot, band and propensity, across restarts.

Columns of numpy in memory, without I/O; the outbox keeps the same columns on disk (`outbox.tallies`). Old slots are
folded into longer ones, so that months need as little memory as days.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from service.monitor.cells import SLOT_SECONDS, Cells
from service.shadow.outcome import OUTCOMES, POSITION, Outcome
from service.shadow.slots import DAY, HOUR, Key, Pair, folded, future, hour_of, slot_of
from service.shadow.totals import Floats, Totals

_OF_REQUESTS = ("requests", "expected", "deferred")
WITHOUT_ROWS = (*_OF_REQUESTS, Outcome.QUEUE_FULL.value, Outcome.STORE_ERROR.value, Outcome.SHUTDOWN.value)
"""Columns of what has no row in the outbox: of requests, and of sampled texts that were dropped. Texts that the teacher
answered itself are `deferred`, and not among the `requests`."""

LOST = tuple(outcome.value for outcome in OUTCOMES if outcome is not Outcome.COMPLETED)
SUMS = (
    *("agreed", "disagreed", "kl", "kl_sq", "js", "js_sq", "cost_usd", "tokens"),
    *("decision_agreed", "decision_disagreed"),  # of comparisons of a bundle that has a decision
)
WITH_ROWS = ("sampled", *SUMS, *(name for name in LOST if name not in WITHOUT_ROWS))
COLUMNS = (*WITHOUT_ROWS, *WITH_ROWS)
"""Names of the counts of a cell. `sampled` counts the texts with a row on disk, and all of them in memory."""

_AT = {name: index for index, name in enumerate(COLUMNS)}
_LOST_AT = [_AT[name] for name in LOST]
_DROPPED_AT = [_AT[name] for name in WITHOUT_ROWS[len(_OF_REQUESTS) :]]


class Changes(NamedTuple):
    """The counts without rows that changed: values, not increments, of WITHOUT_ROWS for each key.

    `hour` is the hour to which the keys are folded.
    """

    hour: int
    keys: list[Key]
    values: list[list[float]]


class History:
    """Cells that grow, for requests sampled with `propensity` [B]. Use it on the event loop alone.

    `pairs` counts comparisons by hour, band, propensity and both classes.
    """

    def __init__(self, propensity: Sequence[float]) -> None:
        self.pairs: dict[Pair, int] = {}
        self.origin: object = object()
        """The same for a history and its snapshots, and for no other."""
        self.hour = 0
        self._propensity = tuple(propensity)
        self._bands = len(propensity)
        self._index: dict[Key, int] = {}
        self._keys = np.zeros((64, 3))
        self._table = np.zeros((64, len(COLUMNS)))
        self._changed: set[Key] = set()
        # The running slot: lists, because numpy takes several times as long to change a single number.
        self._slot, self._end = 0, 0
        self._requests = [0.0] * self._bands
        self._expected = [0.0] * self._bands
        # Requests of this process, and their expected disagreement, before those of the running slot.
        self._requests_before = [0.0] * self._bands
        self._expected_before = [0.0] * self._bands

    @property
    def requests(self) -> list[float]:
        """The requests of this process per band; they never decrease."""
        return [before + now for before, now in zip(self._requests_before, self._requests, strict=True)]

    @property
    def expected(self) -> list[float]:
        """The sum of expected disagreement of the requests of this process per band; it never decreases."""
        return [before + now for before, now in zip(self._expected_before, self._expected, strict=True)]

    def count_request(self, now: float, band: int, expected: float) -> None:
        """Count a request answered at `now` (Unix seconds) for which a coin was tossed."""
        if not self._slot <= now < self._end:
            if self._slot - HOUR <= now < self._slot:
                self._add_requests(slot_of(now), band, 1.0, expected)  # counted late
                return
            self.turn(now)
        self._requests[band] += 1.0
        self._expected[band] += expected

    def add(self, key: Key, name: str, value: float = 1.0) -> None:
        """Add to the count `name`, one of COLUMNS, of a cell."""
        row = self._row(key)  # may replace the table
        self._table[row, _AT[name]] += value
        if name in WITHOUT_ROWS:
            self._changed.add(self._folded(key))

    def add_pair(self, key: Key, student_class: int, teacher_class: int) -> None:
        """Count a comparison of a request of a cell by both classes."""
        self._add_pairs(Pair(hour_of(key.slot), key.band, key.propensity, student_class, teacher_class), 1)

    def turn(self, now: float) -> None:
        """Begin the slot that `now` is in, and fold old slots if the hour has changed."""
        self._settle()
        self._slot = slot_of(now)
        self._end = self._slot + SLOT_SECONDS
        if (hour := hour_of(now)) != self.hour:
            self.hour = hour
            self._fold()

    def load(self, tallies: Iterable[Sequence[float]], pairs: Iterable[tuple[Pair, int]]) -> None:
        """Add counts from the outbox: slot, band, propensity and COLUMNS of each cell."""
        for slot, band, propensity, *values in tallies:
            row = self._row(Key(int(slot), int(band), propensity))
            self._table[row] += values
            self._table[row, _AT["sampled"]] += sum(values[index] for index in _DROPPED_AT)
        for pair, count in pairs:
            self._add_pairs(pair, count)

    @property
    def changed(self) -> bool:
        """Whether counts without rows changed since they were last taken."""
        return bool(self._changed) or any(self._requests)

    def take_changes(self) -> Changes:
        """Return the counts without rows that changed; give them back if they cannot be stored."""
        self._settle()
        keys = sorted(self._changed)
        self._changed.clear()
        values = self._table[[self._index[key] for key in keys], : len(WITHOUT_ROWS)].tolist()
        return Changes(self.hour, keys, values)

    def give_back(self, changes: Changes) -> None:
        """Have the counts of these cells stored again, because they may not have been."""
        self._changed.update(map(self._folded, changes.keys))

    def snapshot(self) -> History:
        """Return a copy that no later count changes."""
        keys, table = self._settled()
        copied = copy(self)
        copied._keys, copied._table = keys.copy(), table.copy()
        copied.pairs, copied._index, copied._changed = self.pairs.copy(), self._index.copy(), set()
        copied._requests, copied._expected = self._requests.copy(), self._expected.copy()
        copied._requests_before, copied._expected_before = self._requests_before.copy(), self._expected_before.copy()
        return copied

    def cells(self) -> Cells:
        """Return all cells."""
        keys, table = self._settled()
        compared = table[:, _AT["agreed"]] + table[:, _AT["disagreed"]]
        lost = table[:, _LOST_AT].sum(axis=1)
        return Cells(
            slot=keys[:, 0],
            band=keys[:, 1].astype(np.int64),
            propensity=keys[:, 2],
            requests=table[:, _AT["requests"]],
            expected=table[:, _AT["expected"]],
            # A clock that jumped may have put a text's sampling and its end into different cells.
            sampled=np.maximum(table[:, _AT["sampled"]], lost + compared),
            lost=lost,
            agreed=table[:, _AT["agreed"]],
            disagreed=table[:, _AT["disagreed"]],
        )

    def decision_cells(self) -> Cells:
        """Return all cells, with decisions instead of labels: `agreed` and `disagreed` say whether those are equal."""
        cells, (_, table) = self.cells(), self._settled()
        return replace(cells, agreed=table[:, _AT["decision_agreed"]], disagreed=table[:, _AT["decision_disagreed"]])

    def sums(self, name: str) -> Floats:
        """Return one of COLUMNS of every cell, shape [C], in the order of `cells`."""
        return self._settled()[1][:, _AT[name]].copy()

    def compared_since(self, start: float) -> tuple[float, float]:
        """Return the number of comparisons of the slots since `start`, and the first of these slots (Unix seconds).

        Comparisons in slot 0, whose times are not known any more, are left out. Without any, the slot is `start`.
        """
        keys, table = self._settled()
        compared = table[:, _AT["agreed"]] + table[:, _AT["disagreed"]]
        chosen = (keys[:, 0] >= max(start, 1.0)) & (compared > 0)
        return float(compared[chosen].sum()), float(keys[chosen, 0].min()) if chosen.any() else start

    def totals(self, start: float = 0.0) -> Totals:
        """Return the sums per band over the slots that start at `start` (Unix seconds) or later."""
        keys, table = self._settled()
        chosen = keys[:, 0] >= start
        bands, weight, table = keys[chosen, 1].astype(np.int64), 1.0 / keys[chosen, 2], table[chosen]

        def total(values: Floats) -> Floats:
            return np.bincount(bands, weights=values, minlength=self._bands).astype(np.float64)

        sums = {name: total(table[:, index]) for name, index in _AT.items()}
        agreed, disagreed = table[:, _AT["agreed"]], table[:, _AT["disagreed"]]
        outcomes = np.zeros((self._bands, len(OUTCOMES)))
        for name in LOST:
            outcomes[:, POSITION[Outcome(name)]] = sums.pop(name)
        outcomes[:, POSITION[Outcome.COMPLETED]] = sums["agreed"] + sums["disagreed"]
        return Totals(
            outcomes=outcomes,
            weight=total(weight * (agreed + disagreed)),
            weight_sq=total(weight**2 * (agreed + disagreed)),
            disagree_weight=total(weight * disagreed),
            **sums,
        )

    def _settle(self) -> None:
        """Move the counts of the running slot into its cells."""
        for band, requests in enumerate(self._requests):
            if requests:
                self._add_requests(self._slot, band, requests, self._expected[band])
                self._requests[band] = self._expected[band] = 0.0

    def _add_requests(self, slot: int, band: int, requests: float, expected: float) -> None:
        key = Key(slot, band, self._propensity[band])
        self.add(key, "requests", requests)
        self.add(key, "expected", expected)
        self._requests_before[band] += requests
        self._expected_before[band] += expected

    def _settled(self) -> tuple[Floats, Floats]:
        """Return slot, band and propensity [C, 3] and the counts [C, columns] of all cells.

        A slot that lies in the future is 0.
        """
        self._settle()
        keys, table = self._keys[: len(self._index)], self._table[: len(self._index)]
        ahead = keys[:, 0] >= future(self.hour)
        if self.hour and ahead.any():
            keys = keys.copy()
            keys[ahead, 0] = 0.0
        return keys, table

    def _folded(self, key: Key) -> Key:
        return key._replace(slot=folded(key.slot, self.hour))

    def _add_pairs(self, pair: Pair, count: int) -> None:
        pair = pair._replace(hour=folded(pair.hour, self.hour, DAY))
        self.pairs[pair] = self.pairs.get(pair, 0) + count

    def _row(self, key: Key) -> int:
        """Return the position of a cell, which is made if it is new."""
        key = self._folded(key)
        row = self._index.get(key)
        if row is None:
            row = self._index[key] = len(self._index)
            if row == len(self._table):
                self._keys = np.concatenate([self._keys, np.zeros_like(self._keys)])
                self._table = np.concatenate([self._table, np.zeros_like(self._table)])
            self._keys[row] = key
        return row

    def _fold(self) -> None:
        """Merge the cells and the pairs of slots that have become old."""
        slots = self._keys[: len(self._index), 0]
        weeks, days = slots < self.hour - 8 * DAY, slots < self.hour - DAY
        old = np.flatnonzero((slots > 0) & (weeks | (days & (slots % HOUR > 0))))
        if old.size:
            keys = list(self._index)
            for row in old:
                target = self._row(keys[row])
                self._table[target] += self._table[row]
            self._table, self._keys = np.delete(self._table, old, axis=0), np.delete(self._keys, old, axis=0)
            gone = set(old.tolist())
            kept = (key for row, key in enumerate(self._index) if row not in gone)
            self._index = {key: row for row, key in enumerate(kept)}
            self._changed = set(map(self._folded, self._changed))
        for pair in [pair for pair in self.pairs if folded(pair.hour, self.hour, DAY) != pair.hour]:
            count = self.pairs.pop(pair)
            self._add_pairs(pair, count)
