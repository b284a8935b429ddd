"""How the report writes numbers, with their intervals."""

from __future__ import annotations

Interval = dict[str, float]
"""An interval as `gap.json` has it: `value`, `lower` and `upper`."""


def percent(interval: Interval | None, digits: int = 1) -> str:
    """Format an interval of shares as percentages; a dash where there is none."""
    if interval is None:
        return "–"
    value, lower, upper = (100 * interval[key] for key in ("value", "lower", "upper"))
    return f"{value:.{digits}f} % [{lower:.{digits}f}, {upper:.{digits}f}]"


def share(value: float, digits: int = 1) -> str:
    """Format a share as a percentage."""
    return f"{100 * value:.{digits}f} %"


def number(interval: Interval, digits: int = 3) -> str:
    """Format an interval of numbers."""
    return f"{interval['value']:.{digits}f} [{interval['lower']:.{digits}f}, {interval['upper']:.{digits}f}]"


def optional(value: float | None, form: str) -> str:
    """Format a number that may not be known."""
    return "not known" if value is None else format(value, form)
