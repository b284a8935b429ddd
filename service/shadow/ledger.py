"""The ledger counts, per confidence band, where every sampled text is and how it ended. In memory, without I/O.

A text moves from memory to the outbox to the teacher and ends in exactly one outcome. Each move has one method here,
so that at every moment, for every band,
sampled + resumed = sum of outcomes + in memory + in outbox + in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from service.monitor.cells import Cells
from service.monitor.evalues import EDetector
from service.shadow.comparison import Comparison
from service.shadow.outcome import OUTCOMES, POSITION, Outcome

Floats = npt.NDArray[np.float64]


@dataclass(slots=True, eq=False)
class Totals:
    """Counts and sums per band: arrays of shape [B], or [B, outcome] for `outcomes` and `lost`.

    `requests` and `expected` (the sum of expected disagreement) cover all requests. `lost` is the part of `outcomes`
    that has no row in the outbox. The sums of weights (1 / propensity) and of divergences cover completed comparisons.
    """

    requests: Floats
    expected: Floats
    sampled: Floats
    outcomes: Floats
    lost: Floats
    agreed: Floats
    disagreed: Floats
    weight: Floats
    weight_sq: Floats
    disagree_weight: Floats
    kl: Floats
    kl_sq: Floats
    js: Floats
    js_sq: Floats
    cost_usd: Floats
    tokens: Floats

    @classmethod
    def zeros(cls, bands: int) -> Self:
        """Return totals with every count at zero."""
        per_outcome = ("outcomes", "lost")
        shapes = {item.name: (bands, len(OUTCOMES)) if item.name in per_outcome else (bands,) for item in fields(cls)}
        return cls(**{name: np.zeros(shape) for name, shape in shapes.items()})

    def __add__(self, other: Totals) -> Totals:
        """Add the counts of both."""
        return Totals(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    @property
    def compared(self) -> Floats:
        """Completed comparisons per band, n_b."""
        return self.agreed + self.disagreed

    def cells(self, propensity: Sequence[float]) -> Cells:
        """Return the counts that the gap is estimated from, sampled with `propensity` [B]: one cell per band."""
        ended = self.outcomes.sum(axis=1)
        return Cells.of(
            slot=0.0,
            band=np.arange(len(self.requests)),
            propensity=propensity,
            requests=self.requests,
            expected=self.expected,
            sampled=self.sampled,
            lost=ended - self.compared,
            agreed=self.agreed,
            disagreed=self.disagreed,
        )


class Ledger:
    """Counts of this process (`now`), on top of those that the outbox has from earlier processes (`earlier`).

    `null` [B] is the ceiling of disagreement per band, in (0, 1]; `detector` tests every comparison against it.
    `redactions` counts placeholders by kind, `defects` the texts that `observe` failed to count. Not thread-safe: use
    it on the event loop alone.
    """

    def __init__(self, null: Floats) -> None:
        self.bands = bands = len(null)
        self.detector = EDetector(null)
        self.now = Totals.zeros(bands)
        self.earlier = Totals.zeros(bands)
        self.resumed = [0] * bands
        self.in_memory = [0] * bands
        self.in_outbox = [0] * bands
        self.in_flight = [0] * bands
        self.redactions: Counter[str] = Counter()
        self.defects = 0

    @property
    def totals(self) -> Totals:
        """The counts for this bundle version and this teacher, across restarts."""
        return self.earlier + self.now

    @property
    def queued(self) -> int:
        """Number of texts that wait, in memory or in the outbox."""
        return sum(self.in_memory) + sum(self.in_outbox)

    @property
    def missing(self) -> list[int]:
        """Per band, sampled texts that are in no place and have no outcome. Anything but zero is a defect."""
        outcomes = self.now.outcomes.sum(axis=1)
        return [
            int(self.now.sampled[band] - outcomes[band])
            + self.resumed[band]
            - self.in_memory[band]
            - self.in_outbox[band]
            - self.in_flight[band]
            for band in range(self.bands)
        ]

    def count_request(self, band: int, expected: float) -> None:
        """Count an answered text, with its expected disagreement."""
        self.now.requests[band] += 1
        self.now.expected[band] += expected

    def sample(self, band: int) -> None:
        """Count a text as sampled and as waiting in memory."""
        self.now.sampled[band] += 1
        self.in_memory[band] += 1

    def drop(self, band: int, outcome: Outcome) -> None:
        """End a text that waited in memory and could not be stored."""
        self.in_memory[band] -= 1
        self._lose(band, outcome)

    def store(self, band: int) -> None:
        """Move a text from memory to the outbox."""
        self.in_memory[band] -= 1
        self.in_outbox[band] += 1

    def resume(self, band: int) -> None:
        """Take over a text that an earlier process left in the outbox."""
        self.resumed[band] += 1
        self.in_outbox[band] += 1

    def lose_stored(self, band: int) -> None:
        """End a text whose row is gone from the outbox before the teacher was asked, as when the file is deleted."""
        self.in_outbox[band] -= 1
        self._lose(band, Outcome.STORE_ERROR)

    def ask(self, band: int) -> None:
        """Move a text from the outbox to the teacher."""
        self.in_outbox[band] -= 1
        self.in_flight[band] += 1

    def requeue(self, band: int) -> None:
        """Move a text back to the outbox: the call to the teacher was cancelled or postponed."""
        self.in_flight[band] -= 1
        self.in_outbox[band] += 1

    def finish(self, band: int, outcome: Outcome) -> None:
        """End a text whose outcome is stored in the outbox."""
        self.in_flight[band] -= 1
        self.now.outcomes[band, POSITION[outcome]] += 1

    def lose_in_flight(self, band: int) -> None:
        """End a text whose outcome cannot be stored, because its row is gone."""
        self.in_flight[band] -= 1
        self._lose(band, Outcome.STORE_ERROR)

    def compare(self, band: int, propensity: float, comparison: Comparison) -> None:
        """Count a completed comparison that is stored in the outbox."""
        now, weight = self.now, 1.0 / propensity
        self.detector.update(band, not comparison.agree)
        now.weight[band] += weight
        now.weight_sq[band] += weight**2
        if comparison.agree:
            now.agreed[band] += 1
        else:
            now.disagreed[band] += 1
            now.disagree_weight[band] += weight
        now.kl[band] += comparison.kl
        now.kl_sq[band] += comparison.kl**2
        now.js[band] += comparison.js
        now.js_sq[band] += comparison.js**2

    def add_cost(self, band: int, cost_usd: float, tokens: int) -> None:
        """Add the cost of an answer that is stored in the outbox."""
        self.now.cost_usd[band] += cost_usd
        self.now.tokens[band] += tokens

    def _lose(self, band: int, outcome: Outcome) -> None:
        """Count an outcome that has no row."""
        self.now.outcomes[band, POSITION[outcome]] += 1
        self.now.lost[band, POSITION[outcome]] += 1
