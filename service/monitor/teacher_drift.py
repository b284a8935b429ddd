"""Teacher drift: whether the teacher still answers a fixed set of texts, the anchors, as when they were recorded.

One odd answer may be the teacher's own noise. So an anchor that is answered otherwise is asked again at once, and
counts as changed only if `DRAWS` answers in a row lack its label. How rarely that happens without a change follows from
the teacher's noise, the rate at which two of its answers to one text differ, and from how often this anchor has kept
its label. Pure; `service.shadow.teacher_watch` asks.

It sees nothing between anchors: a label that no anchor has may change unseen. It takes answers to be independent draws,
so a teacher whose answers vary with the time of day may count as changed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from export.bundle.ceilings import upper_bound

DRAWS = 6
"""Answers in a row without its label that make an anchor changed."""

FIRST_DRAWS = 4
"""Answers to each anchor at first contact with a teacher whose answers may vary; they also measure its noise."""

SHARES = (0.01, 0.03, 0.1, 0.3)
"""Alternatives: the share of the anchors that have changed."""

ODD_SHARES = (0.6, 0.95)
"""Alternatives at first contact: of the anchors with one odd answer, the share where that is the recorded one."""

CONSTANT_NOISE = 1e-3
"""Noise of a teacher that is constant by its kind: runtimes and CPUs differ in near ties."""

LEAST_CHANCE = 1e-3
"""Least chance that an unchanged anchor counts as changed. The draws of one minute may depend on each other, which no
formula for independent draws covers; so of many anchors one or two alone are not enough."""

LOG_DRIFT = math.log(1e3)
"""Log e-value that a drift needs: a false one in a thousand rounds over all anchors at most."""

_LEAST = 1e-12


@dataclass(slots=True)
class Anchor:
    """The answers to one anchor: how many gave its `label` (`kept`) and how many did not (`slipped`).

    `label` is the recorded one at first, and after the first contact the most frequent of all answers until then.
    `first` holds the answers of the first contact until it is over, `run` counts the latest answers without the label.
    """

    recorded: int
    label: int
    kept: int = 1
    slipped: int = 0
    run: int = 0
    first: tuple[int, ...] | None = ()
    changed: bool = False


class TeacherDrift:
    """The evidence from all answers to the anchors, in the order in which they were given.

    `labels` are the recorded ones, as indices. `constant` says that the teacher's kind always answers alike. `pairs` is
    the number of pairs of answers to one text that were counted elsewhere, `differing` of those that differ.
    """

    def __init__(self, labels: Sequence[int], *, constant: bool = False, pairs: int = 0, differing: int = 0) -> None:
        self.anchors = [Anchor(label, label) for label in labels]
        self.constant = constant
        self.pairs, self.differing = pairs, differing
        self.asked = 0
        self.met = 0
        """Number of anchors whose first contact is over."""
        self.changed_at_first = 0
        """Number of anchors of which no answer at first contact gave the recorded label."""
        self._changed = 0
        self._alarmed = 0  # the most anchors that were changed since the evidence sufficed; 0 before
        self._evidence = [0.0] * len(SHARES)
        self._odd: Counter[bool] = Counter()  # anchors with one odd answer at first, by whether it is the recorded one

    @property
    def noise(self) -> float:
        """Upper bound, at 95 %, of the rate at which two answers of the teacher to one text differ; 1 if unknown.

        Texts are shadowed more often where the student is uncertain, so the bound from live pairs errs upwards.
        """
        return CONSTANT_NOISE if self.constant else max(_upper(self.differing, self.pairs), CONSTANT_NOISE)

    @property
    def changed(self) -> int:
        """Number of anchors that are not answered as recorded, now or since the first contact."""
        return sum(anchor.changed or anchor.label != anchor.recorded for anchor in self.anchors)

    @property
    def drifts(self) -> bool:
        """Whether the teacher has changed, before the first contact or since.

        A change since then stands until more than half of the changed anchors have their label again.
        """
        return self.log_evalue() >= LOG_DRIFT

    def pair(self, differs: bool) -> None:
        """Count a pair of answers to one text."""
        self.pairs += 1
        self.differing += differs

    def add(self, index: int, label: int) -> bool:
        """Take an answer to an anchor: the index of its label, or -1 for none.

        Return whether the anchor should be asked again at once; otherwise it waits for the next round.
        """
        anchor = self.anchors[index]
        self.asked += 1
        if anchor.first is not None:
            return self._meet(anchor, [*anchor.first, label])
        changed = label != anchor.label
        anchor.run += changed
        if changed and anchor.run < DRAWS:
            return True
        chance = chance_of_change(anchor.kept, anchor.slipped, self.noise)
        self._changed += changed - anchor.changed
        anchor.changed = changed
        if not self._alarmed:  # during a drift, what is missing is no slip
            anchor.kept += not changed
            anchor.slipped += anchor.run
        anchor.run = 0
        self._update(changed, chance)
        return False

    def log_evalue(self) -> float:
        """Return the log of the evidence that the teacher changed, before the first contact or since.

        Since then it is an e-detector, which starts anew with each anchor: without a change it reaches A less than once
        in A rounds over all anchors (Shin, Ramdas and Rinaldo, arXiv 2203.03532). While the teacher drifts it stands
        still.
        """
        since = sum(self._evidence) / len(SHARES)
        return max(self.log_first(), math.log(max(since, _LEAST)))

    def log_first(self) -> float:
        """Return the log e-value of the first contact alone: the mean of two, of which each suits another case.

        One takes the noise as known. The other does without: if nothing changed, the recorded answer to a text and the
        new ones are exchangeable, so that each of them is the only odd one equally often.
        """
        chance = self.noise  # bounds that the recorded answer alone was a slip
        changed, same = self.changed_at_first, self.met - self.changed_at_first
        evalue = _mean(_power(1 - share + share / chance, changed) * _power(1 - share, same) for share in SHARES)
        if not self.constant:
            both = FIRST_DRAWS + 1
            by_position = _mean(
                _power(share * both, self._odd[True]) * _power((1 - share) * both / FIRST_DRAWS, self._odd[False])
                for share in ODD_SHARES
            )
            evalue = (evalue + by_position) / 2
        return math.log(max(evalue, _LEAST))

    def _meet(self, anchor: Anchor, draws: list[int]) -> bool:
        """Take the answers at first contact so far. Successive ones also count as pairs."""
        if len(draws) > 1:
            self.pair(draws[-1] != draws[-2])
        changed = anchor.recorded not in draws
        if len(draws) < (DRAWS if changed else 1 if self.constant else FIRST_DRAWS):
            anchor.first = tuple(draws)
            return True
        anchor.first = None
        self.met += 1
        self.changed_at_first += changed
        four = [anchor.recorded, *draws[:FIRST_DRAWS]]
        common, count = Counter(four).most_common(1)[0]
        if count == len(four) - 1 == FIRST_DRAWS:
            self._odd[anchor.recorded != common] += 1
        every = [anchor.recorded, *draws]
        anchor.label, anchor.kept = Counter(every).most_common(1)[0]
        anchor.slipped = len(every) - anchor.kept
        return False

    def _update(self, changed: bool, chance: float) -> None:
        """Update the e-detector of each alternative with one anchor."""
        if self._alarmed and 2 * self._changed < self._alarmed:
            self._alarmed, self._evidence = 0, [0.0] * len(SHARES)
        if self._alarmed:
            self._alarmed = max(self._alarmed, self._changed)
            return
        for index, share in enumerate(SHARES):
            factor = 1 - share + (share / chance if changed else 0.0)
            self._evidence[index] = (self._evidence[index] + 1 / len(self.anchors)) * factor
        if _mean(self._evidence) >= math.exp(LOG_DRIFT):
            self._alarmed = self._changed


def chance_of_change(kept: int, slipped: int, noise: float) -> float:
    """Bound the chance that an anchor of an unchanged teacher counts as changed, in [LEAST_CHANCE, 1].

    Its label was given in s = `kept` draws and then in none of m = `DRAWS`. With p_b the probability of label b that is
    Σ_b p_b^s (1 − p_b)^m ≤ max_p p^(s−1) (1 − p)^(m−1) · Σ_b p_b (1 − p_b), where the sum is the noise. What the
    anchor's own slips suggest is added, with one and a half slips more: one that slips half of the time may be lucky.
    """
    s, m = kept - 1, DRAWS - 1
    peak = (s / (s + m)) ** s * (m / (s + m)) ** m
    own = (slipped + 1.5) / (kept + slipped + 2)
    return min(max(noise * peak + own**DRAWS, LEAST_CHANCE), 1.0)


@lru_cache(maxsize=64)
def _upper(differing: int, pairs: int) -> float:
    """Return the upper bound, at 95 %, of a rate."""
    return upper_bound(differing, pairs, 0.05)


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every)


def _power(base: float, exponent: int) -> float:
    return math.exp(min(exponent * math.log(base), 600.0))
