"""Judge whether there is enough data: the verdict, why, and what to do about it at what price. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from distill.data.checks import ENOUGH_PER_LABEL, ENOUGH_ROWS
from distill.data.spelling import plain
from distill.evaluation.intervals import Interval
from distill.labelling.account import dollars

Verdict = Literal["enough", "more would help", "too little"]

MOST_ROWS = 50_000
"""The upper end of what distillation profits from, as a rule; the lower end is ENOUGH_ROWS."""

FLAT = 0.01
"""Twice the data surely brings less than this: enough."""

STEEP = 0.03
"""Twice the data surely brings more than this: too little."""

FEW_ROWS = 1_000
"""With fewer rows and no learning curve to say otherwise: too little."""

NOISY = 0.03
"""With a larger share of labels that look wrong, they are worth looking through."""

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do: the `texts` that the teacher must label for it, their price, and what it is expected to bring.

    `usd` is None if the price is not known. `gain` is a share of all answers, or None where it cannot be foreseen.
    """

    action: str
    texts: int
    usd: float | None
    gain: Interval | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, the reason in a sentence, and remedies, the most useful first."""

    verdict: Verdict
    reason: str
    remedies: tuple[Remedy, ...]


def judge(
    rows: int,
    per_label: Mapping[str, int],
    gain: Interval | None,
    usd_per_1000: float | None,
    suspects: int = 0,
    looked_at: int = 0,
) -> Judgement:
    """Judge `rows` texts to train on.

    `per_label` counts the labelled ones of each label (empty if none is labelled), `gain` is by how much twice the
    data would raise the agreement or the accuracy, and None if no learning curve could be measured. Of `looked_at`
    labels, `suspects` look wrong.
    """
    thin = {label: count for label, count in per_label.items() if count < ENOUGH_PER_LABEL}
    verdict, reason = _by_the_rule(rows) if gain is None else _by_the_curve(gain)
    if verdict == "enough" and thin:
        short = "1 label has" if len(thin) == 1 else f"{len(thin)} labels have"
        verdict, reason = "more would help", f"{reason}, but {short} fewer than {ENOUGH_PER_LABEL} rows"
        remedies = [_more_of(thin, usd_per_1000)]
    elif verdict == "enough":
        remedies = []
    else:
        remedies = [_more(rows, gain, usd_per_1000), *([_more_of(thin, usd_per_1000)] if thin else [])]
    if suspects > NOISY * looked_at:
        action = f"look through the {suspects:,} labels that look wrong, which --json lists, the likeliest first"
        remedies.append(Remedy(action, 0, None, None))
    return Judgement(verdict, reason, tuple(remedies))


def points(gain: Interval) -> str:
    """Format a gain with its 95 % interval in percentage points, such as `+0.6 points [+0.3, +0.9]`."""
    value, lower, upper = (100 * end for end in (gain.value, gain.lower, gain.upper))
    return f"{value:+.1f} points [{lower:+.1f}, {upper:+.1f}]"


def price(remedy: Remedy, unknown: str) -> str:
    """Format what the teacher's labels for a remedy cost, `unknown` if that is not known; nothing if it needs none."""
    if not remedy.texts:
        return ""
    return f"; {unknown}" if remedy.usd is None else f"; the teacher's labels cost {dollars(remedy.usd)}"


def _by_the_curve(gain: Interval) -> tuple[Verdict, str]:
    reason = f"with twice the data expect {points(gain)}"
    if gain.lower >= STEEP:
        return "too little", f"{reason}; the learning curve still rises steeply"
    return ("enough" if gain.upper <= FLAT else "more would help"), reason


def _by_the_rule(rows: int) -> tuple[Verdict, str]:
    rule = f"distillation profits from {ENOUGH_ROWS:,} to {MOST_ROWS:,} texts"
    if rows < FEW_ROWS:
        return "too little", f"{rows:,} texts to train on; {rule}"
    if rows < ENOUGH_ROWS:
        return "more would help", f"{rows:,} texts to train on; {rule}"
    return "enough", f"{rows:,} texts to train on; {rule}. This is a rule, not a measurement"


def _more(rows: int, gain: Interval | None, usd_per_1000: float | None) -> Remedy:
    """Double the data, or reach the rule's lower end where no curve could be measured."""
    texts = rows if gain is not None else ENOUGH_ROWS - rows
    action = f"add about {_rounded(texts):,} texts of the same source to `data.unlabelled`; they need no gold label"
    return Remedy(action, texts, _usd(texts, usd_per_1000), gain)


def _more_of(thin: Mapping[str, int], usd_per_1000: float | None) -> Remedy:
    texts = sum(ENOUGH_PER_LABEL - count for count in thin.values())
    named = sorted(thin, key=lambda label: (thin[label], label))
    listed = ", ".join(f"{plain(label)} ({thin[label]})" for label in named[:_MOST_NAMED])
    more = ", …" if len(named) > _MOST_NAMED else ""
    action = f"find {texts:,} texts of the labels with fewer than {ENOUGH_PER_LABEL} rows: {listed}{more}"
    return Remedy(action, texts, _usd(texts, usd_per_1000), None)


def _usd(texts: int, usd_per_1000: float | None) -> float | None:
    return None if usd_per_1000 is None else texts * usd_per_1000 / 1000


def _rounded(texts: int) -> int:
    """Round to two significant digits."""
    return int(float(f"{texts:.2g}"))
