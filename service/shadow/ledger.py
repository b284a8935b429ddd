"""The ledger: where every sampled text is, and what is known of those that ended. In memory, without I/O.

A text moves from memory to the outbox to the teacher, and ends in exactly one outcome. Each move has its method here
and shifts one count, so that at every moment, band by band,
sampled + resumed = sum of outcomes + in memory + stored + asked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self

import numpy as np
import numpy.typing as npt

from service.monitor.evalues import EDetector
from service.monitor.gap import BandCounts
from service.shadow.comparison import Comparison

Floats = npt.NDArray[np.float64]


class Outcome(StrEnum):
    """How a sampled text ended. A closed set."""

    COMPLETED = "completed"
    QUEUE_FULL = "queue_full"
    BUDGET = "budget"
    BREAKER_OPEN = "breaker_open"
    TIMEOUT = "timeout"
    TEACHER_ERROR = "teacher_error"
    INVALID_ANSWER = "invalid_answer"
    REFUSED = "refused"
    STORE_ERROR = "store_error"
    SHUTDOWN = "shutdown"


OUTCOMES = tuple(Outcome)
POSITION = {outcome: index for index, outcome in enumerate(OUTCOMES)}


@dataclass(slots=True, eq=False)
class Totals:
    """What was counted per band; arrays have shape [B], `outcomes` [B, outcome].

    `requests` and `expected` (the sum of expected disagreement) are over all requests; `lost` [B, outcome] is the part
    of `outcomes` that left no row in the outbox; the sums of weights (1 / propensity) and divergences are over
    completed comparisons.
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
        """Nothing counted yet."""
        per_outcome = ("outcomes", "lost")
        shapes = {item.name: (bands, len(OUTCOMES)) if item.name in per_outcome else (bands,) for item in fields(cls)}
        return cls(**{name: np.zeros(shape) for name, shape in shapes.items()})

    def __add__(self, other: Totals) -> Totals:
        """Return the counts of both."""
        return Totals(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    @property
    def compared(self) -> Floats:
        """Completed comparisons per band, n_b."""
        return self.agreed + self.disagreed

    def counts(self) -> BandCounts:
        """Return what the gap is estimated from."""
        return BandCounts(self.requests, self.sampled, self.compared, self.disagreed, self.expected)


class Ledger:
    """Counts since this process started (`now`), on top of what the outbox knows of before (`earlier`).

    `null` [B] is the ceiling of disagreement per band, in (0, 1]; `detector` weighs every comparison against it.
    `redactions` counts placeholders by kind, `defects` what `observe` could not count at all. Not for several
    threads: it belongs to the event loop.
    """

    def __init__(self, null: Floats) -> None:
        self.bands = bands = len(null)
        self.detector = EDetector(null)
        self.now = Totals.zeros(bands)
        self.earlier = Totals.zeros(bands)
        self.resumed = [0] * bands
        self.in_memory = [0] * bands
        self.stored = [0] * bands
        self.asked = [0] * bands
        self.redactions: Counter[str] = Counter()
        self.defects = 0

    @property
    def totals(self) -> Totals:
        """The counts since this bundle met this teacher, over restarts."""
        return self.earlier + self.now

    @property
    def queued(self) -> int:
        """Texts that wait, in memory or in the outbox."""
        return sum(self.in_memory) + sum(self.stored)

    @property
    def missing(self) -> list[int]:
        """Per band, sampled texts that are in no place and had no outcome; all zero, or there is a defect."""
        outcomes = self.now.outcomes.sum(axis=1)
        return [
            int(self.now.sampled[band] - outcomes[band])
            + self.resumed[band]
            - self.in_memory[band]
            - self.stored[band]
            - self.asked[band]
            for band in range(self.bands)
        ]

    def request(self, band: int, expected: float) -> None:
        """Count an answered text."""
        self.now.requests[band] += 1
        self.now.expected[band] += expected

    def sample(self, band: int) -> None:
        """Count a text that is to be shown to the teacher, and waits in memory."""
        self.now.sampled[band] += 1
        self.in_memory[band] += 1

    def drop(self, band: int, outcome: Outcome) -> None:
        """End one that could not be brought to the outbox."""
        self.in_memory[band] -= 1
        self._lose(band, outcome)

    def store(self, band: int) -> None:
        """Move one to the outbox."""
        self.in_memory[band] -= 1
        self.stored[band] += 1

    def resume(self, band: int) -> None:
        """Take over one that an earlier process left in the outbox."""
        self.resumed[band] += 1
        self.stored[band] += 1

    def vanish(self, band: int) -> None:
        """End one that is no longer in the outbox, though nobody asked the teacher: the file was taken away."""
        self.stored[band] -= 1
        self._lose(band, Outcome.STORE_ERROR)

    def ask(self, band: int) -> None:
        """Move one from the outbox to the teacher."""
        self.stored[band] -= 1
        self.asked[band] += 1

    def put_back(self, band: int) -> None:
        """Move one back that the teacher was not heard out about."""
        self.asked[band] -= 1
        self.stored[band] += 1

    def finish(self, band: int, outcome: Outcome) -> None:
        """End one whose outcome is in the outbox."""
        self.asked[band] -= 1
        self.now.outcomes[band, POSITION[outcome]] += 1

    def lose_asked(self, band: int) -> None:
        """End one whose outcome the outbox could not take, since its row is gone."""
        self.asked[band] -= 1
        self._lose(band, Outcome.STORE_ERROR)

    def compare(self, band: int, propensity: float, comparison: Comparison) -> None:
        """Count a completed comparison that is in the outbox."""
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

    def pay(self, band: int, cost_usd: float, tokens: int) -> None:
        """Count what an answer that is in the outbox cost."""
        self.now.cost_usd[band] += cost_usd
        self.now.tokens[band] += tokens

    def _lose(self, band: int, outcome: Outcome) -> None:
        self.now.outcomes[band, POSITION[outcome]] += 1
        self.now.lost[band, POSITION[outcome]] += 1
