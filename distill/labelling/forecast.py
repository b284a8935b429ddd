"""Forecast the cost and time of labelling a pool, with intervals, from earlier payments or from bounds. No I/O.

`distill.labelling.dry_run` collects the calls to make and the earlier payments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

from distill.evaluation.intervals import Interval
from distill.labelling.account import dollars
from distill.teachers.api.pricing import Price, Usage

Floats = npt.NDArray[np.float64]

ENOUGH = 10
"""The fewest answered texts to learn a forecast from; with fewer, it rests on bounds."""

TOKENS_PER_BYTE = Interval(0.25, 0.12, 0.6)
"""Tokens per byte of a request: English prose in the middle, JSON syntax below, rare scripts above."""

_LEAST_FREE = 0.1  # lower limit of 1 - leverage: a text far from all others pulls the line towards itself


@dataclass(frozen=True, slots=True)
class PlannedCalls:
    """`calls` to one API: the total bytes of their requests, the most tokens they may generate, and the API's limits.

    `slots` calls run at once; the limits per minute make all of them take at least `least_seconds`.
    """

    price: Price
    calls: int
    request_bytes: int
    most_output: int
    slots: int
    least_seconds: float


@dataclass(frozen=True, slots=True)
class ObservedCosts:
    """What N answered texts took, arrays [N]: their `sizes` in bytes, and the number, cost and time of their calls."""

    sizes: Floats
    calls: Floats
    usd: Floats
    seconds: Floats


@dataclass(frozen=True, slots=True)
class Forecast:
    """The remaining work for a pool. `seconds` is None if no call was timed yet.

    `most_usd` is an upper bound, `batch_usd` the price at a batch API, `learnt_from` the number of answered texts that
    the forecast rests on, and `slots` the number of concurrent calls.
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
        """Return the forecast as lines of text."""
        time = "unknown: no call was timed yet"
        if self.seconds is not None:
            time = f"{_shown(self.seconds, duration)}, with {self.slots} calls at once"
        basis = (
            f"95 % intervals, learnt from {self.learnt_from:,} texts that were answered before"
            if self.learnt_from
            else "bounds, and a guess between them: there are too few answers to learn from. "
            "Run once with a small --max-usd for a better forecast; its answers are kept"
        )
        return [
            f"{self.teacher}: {self.to_ask:,} of {self.texts:,} texts to ask; no call was made for this forecast",
            f"calls        {_shown(self.calls, '{:,.0f}'.format)}",
            f"cost         {_shown(self.usd, dollars)}; at most {dollars(self.most_usd)}",
            f"by batch API {_shown(self.batch_usd, dollars)}, if the vendor has one",
            f"time         {time}",
            f"paid so far  {dollars(self.spent_usd)}",
            f"({basis})",
        ]


def lines_of(forecasts: Sequence[Forecast]) -> list[str]:
    """Return the forecasts of a run's steps as lines of text; if there are several, with what all calls will cost.

    That includes what was paid before. Its interval is the sum of those of the steps, and so wide enough.
    """
    if len(forecasts) == 1:
        return forecasts[0].lines()
    paid = f"paid so far  {dollars(forecasts[0].spent_usd)}"  # the same in each, as a run has one account
    steps = [line for one in forecasts for line in one.lines() if line != paid]
    spent, most = forecasts[0].spent_usd, sum(one.most_usd for one in forecasts)
    usd = Interval(
        spent + sum(one.usd.value for one in forecasts),
        spent + sum(one.usd.lower for one in forecasts),
        spent + sum(one.usd.upper for one in forecasts),
    )
    all_calls = f"in all       {_shown(usd, dollars)}; at most {dollars(spent + most)}; --max-usd limits this"
    return [*steps, paid, all_calls]


def forecast(
    teacher: str,
    texts: int,
    to_ask: int,
    sizes: Floats,
    planned: Sequence[PlannedCalls],
    seen: ObservedCosts,
    spent_usd: float,
) -> Forecast:
    """Forecast the cost and time for `to_ask` of a pool's `texts`.

    `sizes` are those of the texts that need the `planned` calls. A text may need more calls than planned if they depend
    on the first ones' responses; `seen` texts say how many more.
    """
    learnt = len(seen.sizes) >= ENOUGH
    first = sum(plan.calls for plan in planned)
    calls = _within(total(seen.sizes, seen.calls, sizes), first) if learnt else Interval(first, first, first)
    worst = sum(plan.price.max_cost(plan.request_bytes, plan.most_output) for plan in planned)
    most = worst * (calls.upper / first if first else 1.0)
    usd = _within(total(seen.sizes, seen.usd, sizes) if learnt else guess(planned), 0.0, most)
    slots = sum(plan.slots for plan in planned)
    seconds = None
    timed = seen.seconds > 0
    if not first:
        seconds = Interval(0.0, 0.0, 0.0)
    elif timed.sum() >= ENOUGH:
        same_size = np.zeros(int(timed.sum()))
        work = total(same_size, seen.seconds[timed], np.zeros(len(sizes)))
        seconds = _within(_scaled(work, 1 / slots), max(plan.least_seconds for plan in planned))
    share = sum(plan.price.batch * plan.price.max_cost(plan.request_bytes, plan.most_output) for plan in planned)
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
    """Predict the sum of a value over texts of `new` sizes, for a value that is affine in the size plus noise.

    Least squares over the `sizes` and `values` [N] of answered texts, N >= 3. The intercept is the cost of the fixed
    prompt, so the answered texts may be longer or shorter than the new ones. The prediction interval at `level` uses
    the HC3 variance (MacKinnon & White 1985) for the line, as the noise may grow with the size, and its mean for the
    noise of the new texts.
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
    half = student_t.ppf((1 + level) / 2, freedom) * np.sqrt(weights**2 @ squares + ahead * squares.mean())
    value = float(weights @ values)
    return Interval(value, value - float(half), value + float(half))


def guess(planned: Sequence[PlannedCalls]) -> Interval:
    """Estimate the cost of calls from their sizes alone, between bounds that rarely fail."""

    def cost(tokens_per_byte: float, output: Callable[[float], float]) -> float:
        return sum(
            plan.price.cost(
                Usage(
                    input=round(tokens_per_byte * plan.request_bytes),
                    output=round(plan.calls * output(plan.most_output / plan.calls)),
                )
            )
            for plan in planned
            if plan.calls
        )

    return Interval(
        cost(TOKENS_PER_BYTE.value, math.sqrt),
        cost(TOKENS_PER_BYTE.lower, lambda most: 1.0),
        cost(TOKENS_PER_BYTE.upper, lambda most: most),
    )


def duration(seconds: float) -> str:
    """Format seconds: `45 s`, `12 min`, `3.5 h`."""
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
