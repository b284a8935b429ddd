"""How the report writes numbers, with their intervals."""

from __future__ import annotations

from math import floor, log10
from typing import Any

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


def dollars(value: float) -> str:
    """Format dollars: to the cent, amounts below a dollar to three digits."""
    if abs(value) >= 1 or value == 0:
        return f"${value:,.2f}"
    whole, _, decimals = f"{value:.{2 - floor(log10(abs(value)))}f}".partition(".")
    return f"${whole}.{decimals[:2]}{decimals[2:].rstrip('0')}"


def count(value: float) -> str:
    """Format a number of things to three digits, such as 12,300 or 1.3 billion."""
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if value >= size:
            return f"{value / size:.3g}{word}"
    return f"{float(f'{value:.3g}'):,.0f}"


def optional(value: float | None, form: str, absent: str = "–") -> str:
    """Format a number; `absent` where there is none."""
    return absent if value is None else format(value, form)


def teacher_time(teacher: dict[str, Any], unit: str = "") -> str:
    """Format a teacher's milliseconds per text, and say so where they are a share of a batch's."""
    if teacher["milliseconds"] is None:
        return "not known"
    return f"{teacher['milliseconds']:,.2f}{unit}{', in batches' if teacher['in_batches'] else ''}"
