"""The ledger counts where every sampled text is and how it ended, and what was compared. In memory, without I/O.

A text moves from memory to the outbox to the teacher and ends in exactly one outcome. Each move has one method here,
so that at every moment, for every band,
sampled + resumed = sum of outcomes + in memory + in outbox + in flight + handed over.

A text that is written to a shared store is handed over to all processes that ask about its rows; one of them, perhaps
this one, takes it, and counts it as resumed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from service.monitor.evalues import EDetector
from service.shadow.comparison import Comparison
from service.shadow.history import History
from service.shadow.outbox.rows import Restored
from service.shadow.outcome import POSITION, Outcome
from service.shadow.slots import DAY, HOUR, Key
from service.shadow.totals import Floats, Totals

DETECTOR_DAYS = 90
"""The e-detector's threshold is the number of comparisons in this many days."""

DETECTOR_FLOOR = 1e4
"""Lowest threshold of the e-detector: that of an e-value that pages, for when hardly anything is compared."""


class Ledger:
    """Counts in cells (`history`), which outlive the process, and counters of this process (`now`).

    `ceilings` holds the ceiling of disagreement per band [B], in (0, 1], with the time in Unix seconds from which it
    holds: at first those that the ledger was made with. `detector` tests every comparison against the last of them.
    `compared` is the number of comparisons across restarts.
    `propensity` [B] is the sampling probability of new requests. `last_comparison` is the time of the last answered
    comparison in Unix seconds, None if there was none. `redactions` counts placeholders by kind, `defects` the texts
    that `observe` failed to count. Not thread-safe: use it on the event loop alone.
    """

    def __init__(self, null: Floats, propensity: Sequence[float]) -> None:
        self.ceilings: list[tuple[float, Floats]] = [(0.0, null)]
        self.compared = 0
        self.bands = bands = len(null)
        self.history = History(propensity)
        self.detector = EDetector(null)
        self.last_comparison: float | None = None
        self.waiting_since: float | None = None
        """When the first text was sampled after the last comparison, in Unix seconds; None if none was."""
        self.sampled_since = 0
        """Texts sampled since the last comparison."""
        self.left: float | None = None
        """Since when the student must leave, as earlier processes found, in Unix seconds; None if it need not."""
        self._unsampled = [0.0] * bands
        self._unsampled_expected = [0.0] * bands
        self.now = Totals.zeros(bands)
        """Counters of this process, of texts that were sampled or deferred; `requests` and `expected` stay at zero."""
        self.resumed = [0] * bands
        self.in_memory = [0] * bands
        self.in_outbox: Counter[Key] = Counter()
        self.in_flight = [0] * bands
        self.handed_over = [0] * bands
        self.queued = 0
        """Number of texts that wait, in memory or in the outbox."""
        self.elsewhere = 0
        """Number of rows that wait in a shared store, as of a second ago; 0 without one."""
        self.redactions: Counter[str] = Counter()
        self.defects = 0

    @property
    def null(self) -> Floats:
        """The ceilings that hold now."""
        return self.ceilings[-1][1]

    @property
    def answered(self) -> list[float]:
        """Answered texts of this process per band, whether or not a coin was tossed for them."""
        return [sum(counts) for counts in zip(self._unsampled, self.history.requests, strict=True)]

    @property
    def expected(self) -> list[float]:
        """The sum of the expected disagreement of the answered texts of this process, per band."""
        return [sum(sums) for sums in zip(self._unsampled_expected, self.history.expected, strict=True)]

    @property
    def eligible(self) -> list[float]:
        """Answered texts of this process for which a coin was tossed, per band."""
        return self.history.requests

    @property
    def totals(self) -> Totals:
        """The counts for this bundle version and this teacher, across restarts."""
        return self.history.totals()

    @property
    def missing(self) -> list[int]:
        """Per band, sampled texts that are in no place and have no outcome. Anything but zero is a defect."""
        missing = self.now.sampled - self.now.outcomes.sum(axis=1) + self.resumed - self.in_memory - self.in_flight
        missing = missing - self.handed_over
        for key, count in self.in_outbox.items():
            missing[key.band] -= count
        return [int(count) for count in missing]

    def edetector_threshold(self, now: float) -> float:
        """Return the threshold of the e-detector: the comparisons expected in 90 days, at least 10,000.

        The rate is that of the last 7 days, or of the time since the first comparison, if that is shorter. `now` is in
        Unix seconds.
        """
        compared, first = self.history.compared_since(now - 7 * DAY)
        if not compared:
            return DETECTOR_FLOOR
        return max(compared / max(now - first, HOUR) * DETECTOR_DAYS * DAY, DETECTOR_FLOOR)

    def restore(self, restored: Restored) -> None:
        """Continue from what earlier processes left in the outbox."""
        self.history.load(restored.tallies, restored.pairs)
        self.detector, self.last_comparison, self.left = restored.detector, restored.last, restored.left
        self.ceilings += restored.ceilings
        self.compared = int(self.totals.compared.sum())
        for key in restored.pending:
            self.resumed[key.band] += 1
            self.in_outbox[key] += 1
            self.queued += 1

    def tighten(self, since: float, null: Floats, detector: EDetector) -> None:
        """Judge requests of the slots from `since` on by the ceilings `null` [B]; `detector` already does."""
        self.ceilings.append((since, null))
        self.detector = detector

    def count_unsampled(self, band: int, expected: float) -> None:
        """Count an answered text for which no coin is tossed, with its expected disagreement.

        It is not one of the requests that the gap is estimated for; those are counted by `history.count_request`.
        """
        self._unsampled[band] += 1.0
        self._unsampled_expected[band] += expected

    def defer(self, key: Key) -> None:
        """Count a text that the teacher answered itself: it is no request that the gap is estimated for."""
        self._add(key, "deferred", 1.0)

    def sample(self, key: Key, time: float) -> None:
        """Count a text answered at `time` (Unix seconds) as sampled and as waiting in memory."""
        self.waiting_since = time if self.waiting_since is None else self.waiting_since
        self.sampled_since += 1
        self.now.sampled[key.band] += 1
        self.history.add(key, "sampled")
        self.in_memory[key.band] += 1
        self.queued += 1

    def drop(self, key: Key, outcome: Outcome) -> None:
        """End a text that waited in memory and could not be stored."""
        self.in_memory[key.band] -= 1
        self.queued -= 1
        self._end(key, outcome)

    def store(self, key: Key) -> None:
        """Move a text from memory to the outbox."""
        self.in_memory[key.band] -= 1
        self.in_outbox[key] += 1

    def hand_over(self, key: Key) -> None:
        """Move a text from memory to a shared store."""
        self.in_memory[key.band] -= 1
        self.queued -= 1
        self.handed_over[key.band] += 1

    def take(self, key: Key) -> None:
        """Take a text from a shared store, to ask about it."""
        self.resumed[key.band] += 1
        self.in_outbox[key] += 1
        self.queued += 1

    def leave(self, key: Key) -> None:
        """Leave a text that was taken, but not asked about in time, to other processes."""
        self._leave_outbox(key)
        self.handed_over[key.band] += 1

    def lose_to_others(self, key: Key) -> None:
        """Leave a text to other processes while it is in flight: its row has ended, or will, by one of theirs."""
        self.in_flight[key.band] -= 1
        self.handed_over[key.band] += 1

    def lose_stored(self, key: Key) -> None:
        """End a text whose row is gone from the outbox before the teacher was asked, as when the file is deleted."""
        self._leave_outbox(key)
        self._end(key, Outcome.STORE_ERROR)

    def ask(self, key: Key) -> None:
        """Move a text from the outbox to the teacher."""
        self._leave_outbox(key)
        self.in_flight[key.band] += 1

    def requeue(self, key: Key) -> None:
        """Move a text back to the outbox: the call to the teacher was cancelled or postponed."""
        self.in_flight[key.band] -= 1
        self.in_outbox[key] += 1
        self.queued += 1

    def finish(self, key: Key, outcome: Outcome) -> None:
        """End a text whose outcome is stored in the outbox; `compare` follows if it is COMPLETED."""
        self.in_flight[key.band] -= 1
        self._end(key, outcome)

    def lose_in_flight(self, key: Key) -> None:
        """End a text whose outcome cannot be stored, because its row is gone."""
        self.in_flight[key.band] -= 1
        self._end(key, Outcome.STORE_ERROR)

    def compare(self, key: Key, answered: float, comparison: Comparison) -> None:
        """Count a completed comparison, answered at `answered` (Unix seconds), that is stored in the outbox."""
        band, weight = key.band, 1.0 / key.propensity
        self.detector.update(band, not comparison.agree)
        self.compared += 1
        self.last_comparison = max(answered, self.last_comparison or answered)
        self.waiting_since, self.sampled_since = None, 0
        self.now.weight[band] += weight
        self.now.weight_sq[band] += weight**2
        if not comparison.agree:
            self.now.disagree_weight[band] += weight
        self._add(key, "agreed" if comparison.agree else "disagreed", 1.0)
        if comparison.decision_agree is not None:
            self._add(key, "decision_agreed" if comparison.decision_agree else "decision_disagreed", 1.0)
        self._add(key, "kl", comparison.kl)
        self._add(key, "kl_sq", comparison.kl**2)
        self._add(key, "js", comparison.js)
        self._add(key, "js_sq", comparison.js**2)
        self.history.add_pair(key, comparison.student_class, comparison.teacher_class)

    def add_cost(self, key: Key, cost_usd: float, tokens: int) -> None:
        """Add the cost of an answer that is stored in the outbox."""
        self._add(key, "cost_usd", cost_usd)
        self._add(key, "tokens", tokens)

    def _leave_outbox(self, key: Key) -> None:
        self.in_outbox[key] -= 1
        if not self.in_outbox[key]:
            del self.in_outbox[key]
        self.queued -= 1

    def _end(self, key: Key, outcome: Outcome) -> None:
        self.now.outcomes[key.band, POSITION[outcome]] += 1
        if outcome is not Outcome.COMPLETED:
            self.history.add(key, outcome.value)

    def _add(self, key: Key, name: str, value: float) -> None:
        """Add to a sum that is both a counter of this process and a count of its cell."""
        counter: Floats = getattr(self.now, name)
        counter[key.band] += value
        self.history.add(key, name, value)
