"""Count what requests look like, in slots of five minutes that are kept in memory for a day.

Every answered text is counted, whether or not there is a teacher. `input_drift` compares the counts with the reference
of the bundle.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from export.bundle.classifier import Prediction
from export.bundle.reference import Reference
from service.monitor.cells import SLOT_SECONDS

Floats = npt.NDArray[np.float64]

BINNED = ("band", "class", "length", "unknown")
"""The features that are counted in bins."""

MOST_SLOTS = 24 * 3600 // SLOT_SECONDS

_BATCH = 8
"""Embeddings that are mapped to random Fourier features together: so few that the product runs in one thread."""

_DRAWS = 500
"""After so many embeddings of a slot, half as large a share of the next ones is drawn."""


@dataclass(frozen=True, eq=False)
class Window:
    """Sums over the requests of some slots.

    `bins` holds the number of requests per bin of each feature in `BINNED`, and `expected` is the sum of their expected
    disagreement. `features` [D] is the sum of the random Fourier features of the embeddings that were drawn, each
    weighted by 1 / its chance of being drawn; `weight` and `weight_sq` are the sums of these weights and their squares.
    """

    bins: dict[str, Floats]
    expected: float
    weight: float
    weight_sq: float
    features: Floats

    @property
    def requests(self) -> int:
        """The number of requests."""
        return int(self.bins["band"].sum())


class InputCounts:
    """Counts the answers of a bundle with this `reference` and number of `classes`.

    Not thread-safe: use it on the event loop alone. `random` makes the choice of embeddings repeatable.
    """

    def __init__(self, reference: Reference, classes: int, random: Random | None = None) -> None:
        self._disagreement, self._band = reference.expected_disagreement, reference.band
        drift = self._drift = reference.drift
        self._random = (random or Random(os.urandom(32))).random
        self._length_edges: list[float] = drift.length_edges.tolist() if drift else []
        self._unknown_edges: list[float] = drift.unknown_edges.tolist() if drift else []
        # A slot is one row of numbers: the bins of each feature, one after another, then the sums.
        sizes = (reference.bands, classes, len(self._length_edges) + 1, len(self._unknown_edges) + 1)
        ends: list[int] = np.cumsum(sizes).tolist()
        self._class, self._length, self._unknown, self._sums = ends
        self._places = {name: slice(end - size, end) for name, size, end in zip(BINNED, sizes, ends, strict=True)}
        self._slots: deque[tuple[int, Floats]] = deque(maxlen=MOST_SLOTS)
        self._closed = np.zeros(self._sums)
        self._open(0)

    def count(self, prediction: Prediction, time: float) -> None:
        """Count an answer that was given at `time`, in Unix seconds."""
        slot = int(time) // SLOT_SECONDS
        if slot != self._slot:
            self._slots.append((self._slot, self._row()))
            self._closed += self._counts
            self._open(slot)
        # The edges of bins are upper, inclusive ends.
        counts, tokens, unknown = self._counts, prediction.tokens, prediction.unknown
        expected = self._disagreement(prediction.score)
        counts[self._band(expected)] += 1
        counts[self._class + prediction.best] += 1
        counts[self._length + bisect_left(self._length_edges, tokens)] += 1
        counts[self._unknown + (bisect_left(self._unknown_edges, unknown / tokens) if unknown else 0)] += 1
        self._expected += expected
        if self._drift is not None and (self._share == 1.0 or self._random() < self._share):
            self._drawn.append(prediction.embedding)
            if len(self._drawn) == _BATCH:
                self._measure()

    def window(self, slots: int, time: float) -> Window:
        """Return the sums over the last `slots` slots, that of `time` (Unix seconds) included; at most `MOST_SLOTS`."""
        now = int(time) // SLOT_SECONDS
        running = self._row()
        rows = [row for slot, row in (*self._slots, (self._slot, running)) if now - slots < slot <= now]
        total = np.sum(rows, axis=0) if rows else np.zeros_like(running)
        bins = {name: total[place] for name, place in self._places.items()}
        expected, weight, weight_sq = total[self._sums : self._sums + 3].tolist()
        return Window(bins, expected, weight, weight_sq, total[self._sums + 3 :])

    def since_start(self, name: str) -> list[float]:
        """Return the number of requests per bin of a feature in `BINNED`, since this object was made."""
        counts: list[float] = (self._closed + self._counts)[self._places[name]].tolist()
        return counts

    def _open(self, slot: int) -> None:
        """Start counting in a slot."""
        self._slot = slot
        self._counts = [0] * self._sums
        self._expected = self._weight = self._weight_sq = 0.0
        self._features = np.zeros(len(self._drift.offsets) if self._drift else 0)
        self._drawn: list[npt.NDArray[np.float32]] = []
        self._share, self._draws = 1.0, 0

    def _row(self) -> Floats:
        """Return the row of the running slot."""
        self._measure()
        return np.concatenate([self._counts, [self._expected, self._weight, self._weight_sq], self._features])

    def _measure(self) -> None:
        """Add the features of the embeddings that were drawn.

        The more requests a slot has, the smaller a share is drawn: a distance of means gains little from more.
        """
        if self._drift is None or not self._drawn:
            return
        drawn, weight = len(self._drawn), 1 / self._share
        # One embedding that is not finite would spoil the sums of a day; as zeros it is merely far from the others.
        embeddings = np.nan_to_num(np.stack(self._drawn), posinf=0.0, neginf=0.0)
        self._features += weight * self._drift.features(embeddings).sum(axis=0)
        self._weight += weight * drawn
        self._weight_sq += weight**2 * drawn
        self._drawn.clear()
        self._draws += drawn
        if self._draws >= _DRAWS:
            self._share, self._draws = self._share / 2, 0
