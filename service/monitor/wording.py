"""Numbers in the words of a sentence: ratios, intervals, times and forecasts."""

from __future__ import annotations

import math

from service.monitor.windows import Window

_IN_WORDS = {"1h": "in the last hour", "6h": "in the last 6 hours", "1d": "in the last day", "7d": "in the last week"}


def gap_of(window: Window) -> str:
    """Return the gap of a window with its interval."""
    found = window.estimate
    if found is None:
        return "not measured"
    return f"{percent(found.gap)} ({percent(found.lower)} to {percent(found.upper)})"


def when(window: Window) -> str:
    """Return the time that a window spans."""
    return _IN_WORDS.get(window.name, "since deployment")


def percent(ratio: float) -> str:
    """Return a ratio in per cent."""
    return f"{100 * ratio:.1f} %"


def duration(seconds: float) -> str:
    """Return a time of minutes, hours or days."""
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def rounded(count: float) -> int:
    """Return a count rounded to one or two digits, as befits a forecast."""
    size: int = 10 ** max(int(math.log10(max(count, 1.0))) - 1, 0)
    return math.ceil(count / size) * size
