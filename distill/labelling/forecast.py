"""What labelling a pool will cost and take, with intervals, from what was paid before or from bounds. Pure mathematics.

Which calls there are to make, and what was paid for those before, is found out by `distill.labelling.dry_run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from distill.evaluation.intervals import Interval
from distill.labelling.account import dollars
from distill.teachers.api.pricing import Price, Usage

Floats = npt.NDArray[np.float64]

ENOUGH = 10
"""Answered texts from which a forecast is learnt; with fewer, bounds say more."""

TOKENS_PER_BYTE = Interval(0.25, 0.12, 0.6)
"""Tokens that a byte of a request makes: English prose in the middle, JSON's own marks below, rare scripts above."""

_LEAST_FREE = 0.1  # of a residual, where a text far from all others draws the line to itself


@dataclass(frozen=True, slots=True)
class Planned:
    """Calls to one API: how many, the bytes of their requests, the most tokens they may generate, and its limits."""

    price: Price
    calls: int
    request_bytes: int
    most_output: int
    slots: int
    least_seconds: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What answered texts took: `sizes` in bytes, and for each the calls it took, their dollars and their seconds."""

    sizes: Floats
    calls: Floats
    usd: Floats
    seconds: Floats


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is still to come for a pool. `seconds` is None where nothing is known of how long a call takes.

    `most_usd` is what is not exceeded whatever comes; `batch_usd` what a batch API would ask; `learnt_from` counts the
    answered texts that the forecast rests on.
    """

    teacher: str
    texts: int
    to_ask: int
    calls: Interval
    usd: Interval
    most_usd: float
    batch_usd: Interval
    seconds: Interval | None
    slots: int
    learnt_from: int
    spent_usd: float

    def lines(self) -> list[str]:
        """The forecast for people."""
        time = "not known: no call was timed yet"
        if self.seconds is not None:
            time = f"{_shown(self.seconds, duration)}, with {self.slots} calls at once"
        basis = (
            f"95 % intervals, learnt from {self.learnt_from:,} texts that were answered before"
            if self.learnt_from
            else "bounds, and a guess between them: nothing was answered yet to learn from. "
            "A first run with a small --max-usd changes that, and nothing of it is lost"
        )
        return [
            f"{self.teacher}: {self.to_ask:,} of {self.texts:,} texts to ask; nothing was called for this forecast",
            f"calls        {_shown(self.calls, '{:,.0f}'.format)}",
            f"cost         {_shown(self.usd, dollars)}; at most {dollars(self.most_usd)}",
            f"by batch API {_shown(self.batch_usd, dollars)}, where there is one",
            f"time         {time}",
            f"paid so far  {dollars(self.spent_usd)}",
            f"({basis})",
        ]


def forecast(
    teacher: str, texts: int, to_ask: int, sizes: Floats, planned: Sequence[Planned], seen: Seen, spent_usd: float
) -> Forecast:
    """The forecast for a pool of which `to_ask` texts are to be asked, and those of these sizes need the planned calls.

    A text may need more calls than are planned, where they depend on what the first ones give.
    """
    learnt = len(seen.sizes) >= ENOUGH
    first = sum(plan.calls for plan in planned)
    calls = _within(total(seen.sizes, seen.calls, sizes), first) if learnt else Interval(first, first, first)
    worst = sum(plan.price.worst(plan.request_bytes, plan.most_output) for plan in planned)
    most = worst * (calls.upper / first if first else 1.0)
    usd = _within(total(seen.sizes, seen.usd, sizes) if learnt else guess(planned), 0.0, most)
    slots = sum(plan.slots for plan in planned)
    seconds = None
    timed = seen.seconds > 0
    if not first:
        seconds = Interval(0.0, 0.0, 0.0)
    elif timed.sum() >= ENOUGH:
        alike = np.zeros(int(timed.sum()))
        work = total(alike, seen.seconds[timed], np.zeros(len(sizes)))
        seconds = _within(_scaled(work, 1 / slots), max(plan.least_seconds for plan in planned))
    share = sum(plan.price.batch * plan.price.worst(plan.request_bytes, plan.most_output) for plan in planned)
    return Forecast(
        teacher=teacher,
        texts=texts,
        to_ask=to_ask,
        calls=calls,
        usd=usd,
        most_usd=most,
        batch_usd=_scaled(usd, share / worst if worst else 1.0),
        seconds=seconds,
        slots=slots,
        learnt_from=len(seen.sizes) if learnt else 0,
        spent_usd=spent_usd,
    )


def total(sizes: Floats, values: Floats, new: Floats, level: float = 0.95) -> Interval:
    """The sum of a value over texts of `new` sizes, where it is affine in the size but for noise.

    Least squares over the texts seen, of which there are at least 3: a prompt that is the same for all costs the
    intercept, and a text by its length, so that those seen may be longer than those to come. The prediction interval
    has the jackknife's variance (HC3, MacKinnon & White 1985) for the line, since the noise may grow with the size, and
    its mean for the noise to come.
    """
    count, ahead = len(sizes), len(new)
    centred = sizes - sizes.mean()
    spread = float(centred @ centred)
    weights = np.full(count, ahead / count)
    leverage = np.full(count, 1 / count)
    slope = 0.0
    if spread > 0:
        slope = float(centred @ values) / spread
        weights += (new.sum() - ahead * sizes.mean()) * centred / spread
        leverage += centred**2 / spread
    freedom = count - (2 if spread > 0 else 1)
    squares = ((values - values.mean() - slope * centred) / np.maximum(1 - leverage, _LEAST_FREE)) ** 2
    half = student.ppf((1 + level) / 2, freedom) * np.sqrt(weights**2 @ squares + ahead * squares.mean())
    value = float(weights @ values)
    return Interval(value, value - float(half), value + float(half))


def guess(planned: Sequence[Planned]) -> Interval:
    """The cost of calls of which nothing is known but their size: between bounds that rarely fail."""
    ends = []
    for tokens, output in (
        (TOKENS_PER_BYTE.value, lambda most: most**0.5),
        (TOKENS_PER_BYTE.lower, lambda most: 1.0),
        (TOKENS_PER_BYTE.upper, lambda most: most),
    ):
        usage = [
            (
                plan.price,
                Usage(
                    input=round(tokens * plan.request_bytes),
                    output=round(plan.calls * output(plan.most_output / plan.calls)),
                ),
            )
            for plan in planned
            if plan.calls
        ]
        ends.append(sum(price.of(one) for price, one in usage))
    value, lower, upper = ends
    return Interval(value, lower, upper)


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `12 min`, `3.5 h`."""
    if 0 < seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _within(interval: Interval, least: float, most: float = np.inf) -> Interval:
    value, lower, upper = np.clip([interval.value, interval.lower, interval.upper], least, max(least, most))
    return Interval(float(value), float(lower), float(upper))


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(interval.value * factor, interval.lower * factor, interval.upper * factor)


def _shown(interval: Interval, form: Callable[[float], str]) -> str:
    value, lower, upper = form(interval.value), form(interval.lower), form(interval.upper)
    return value if lower == upper else f"{value} ({lower} to {upper})"
