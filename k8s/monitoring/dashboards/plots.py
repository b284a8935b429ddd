"""Draws one panel with matplotlib: a plain picture of what its queries found, not what Grafana would show."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import singledispatch
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from k8s.monitoring.dashboards.panels import Lines, Panel, Stat, States, Table

COLOURS = {"green": "#2e7d32", "yellow": "#e0a800", "orange": "#e8710a", "red": "#c62828", "purple": "#7b1fa2"}
PALETTE = ("#1565c0", "#e8710a", "#2e7d32", "#8e24aa", "#00838f", "#c62828", "#6d4c41", "#546e7a", "#f9a825", "#ad1457")
STEPS = (60.0, 600.0, 1800.0, 3600.0, 14_400.0, 86_400.0)
"""Seconds between the marks of a time axis."""

SMALL = 7.0
MOST = 10
"""Series in a legend, and rows of a table."""


@dataclass(frozen=True)
class Series:
    """What a query found for one set of labels: its `values` at `times` (Unix seconds)."""

    labels: dict[str, str]
    times: Sequence[float]
    values: Sequence[float]

    def name(self, legend: str) -> str:
        """Return the legend, with the values of labels in it."""
        return re.sub(r"{{(\w+)}}", lambda found: self.labels.get(found[1], ""), legend).strip()


Found = Sequence[Sequence[Series]]
"""The series of each query of a panel."""


@singledispatch
def plot(panel: Panel, axes: Axes, found: Found) -> None:
    """Draw what was `found` for the queries of a panel."""
    raise NotImplementedError(type(panel))


@plot.register
def _(panel: Stat, axes: Axes, found: Found) -> None:
    axes.axis("off")
    shown = _named(panel, found)[:4]
    for place, (name, one) in enumerate(shown):
        value = one.values[-1]
        across = (place + 0.5) / len(shown)
        axes.text(across, 0.55, _text(panel, value), ha="center", va="center", size=17, color=_colour(panel, value))
        axes.text(across, 0.1, name, ha="center", va="center", size=SMALL, color="#555555")


@plot.register
def _(panel: Lines, axes: Axes, found: Found) -> None:
    named = _named(panel, found)
    if not named:
        _say_nothing(axes)
        return
    colours = dict(zip([name for name, _ in named], cycle(PALETTE), strict=False))
    if panel.stacked:
        _stack(axes, named, [colours[name] for name, _ in named])
    else:
        ends = {name: one for name, one in named if name in ("lower", "upper")} if panel.repeat else {}
        for name, one in named:
            if name not in ends:
                axes.plot(one.times, one.values, color=colours[name], linewidth=1.3, label=name)
        if len(ends) == 2:
            lower, upper = ends["lower"], dict(zip(ends["upper"].times, ends["upper"].values, strict=True))
            both = [
                (time, low, upper[time]) for time, low in zip(lower.times, lower.values, strict=True) if time in upper
            ]
            times, low, high = zip(*both, strict=True)
            axes.fill_between(times, low, high, color=PALETTE[0], alpha=0.18, linewidth=0, label="95 % interval")
    for at, colour in (panel.limits or {}).items():
        axes.axhline(at, color=COLOURS[colour], linestyle="--", linewidth=0.9)
    if panel.logarithmic:
        axes.set_yscale("log")
    elif panel.floor is not None:
        axes.set_ylim(bottom=panel.floor)
    axes.yaxis.set_major_formatter(lambda value, _: _text(panel, value, digits=3))
    _time_axis(axes)
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[:MOST], names[:MOST], fontsize=SMALL - 1, loc="upper left", framealpha=0.6, ncols=2)


@plot.register
def _(panel: States, axes: Axes, found: Found) -> None:
    named = _named(panel, found)
    for row, (_, one) in enumerate(named):
        step = one.times[1] - one.times[0] if len(one.times) > 1 else 60.0
        for time, value in zip(one.times, one.values, strict=True):
            axes.fill_betweenx([row - 0.35, row + 0.35], time, time + step, color=_colour(panel, value), linewidth=0)
    axes.set_yticks([])
    for row, (name, one) in enumerate(named):
        axes.text(one.times[0], row, f" {name}", va="center", size=SMALL)
    for value, name in (panel.names or {}).items():
        axes.plot([], [], color=_colour(panel, value), linewidth=5, label=name)
    _time_axis(axes)
    axes.legend(fontsize=SMALL, loc="upper left", ncols=4, framealpha=0.9)


@plot.register
def _(panel: Table, axes: Axes, found: Found) -> None:
    axes.axis("off")
    columns = [query.legend for query in panel.queries]
    rows: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for column, series in zip(columns, found, strict=True):
        for one in series:
            rows.setdefault(tuple(sorted(one.labels.items())), {})[column] = one.values[-1]
    ordered = sorted(rows.items())
    if panel.sort:
        sort = panel.sort
        ordered.sort(key=lambda row: -row[1].get(sort, -math.inf))
    names = sorted({name for row in rows for name, _ in row})
    cells = [
        [*(dict(row).get(name, "") for name in names), *(_cell(panel, column, values) for column in columns)]
        for row, values in ordered[:MOST]
    ]
    if not cells:
        _say_nothing(axes)
        return
    table = axes.table(cells, colLabels=[*names, *columns], loc="upper center", cellLoc="left", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(SMALL)
    table.auto_set_column_width(list(range(len(names) + len(columns))))


def _cell(panel: Table, column: str, values: dict[str, float]) -> str:
    if column not in values:
        return ""
    if panel.names and column == panel.queries[0].legend:
        return panel.names.get(int(values[column]), "")
    return _number((panel.units or {}).get(column, panel.unit), values[column], 3)


def _named(panel: Panel, found: Found) -> list[tuple[str, Series]]:
    """Return all series with their names."""
    return [(one.name(query.legend), one) for query, series in zip(panel.queries, found, strict=True) for one in series]


def _say_nothing(axes: Axes) -> None:
    axes.axis("off")
    axes.text(0.5, 0.5, "no data", ha="center", va="center", color="#999999", transform=axes.transAxes)


def _stack(axes: Axes, named: list[tuple[str, Series]], colours: list[str]) -> None:
    times = sorted({time for _, one in named for time in one.times})
    known = [dict(zip(one.times, one.values, strict=True)) for _, one in named]
    heights = [[values.get(time, 0.0) for time in times] for values in known]
    axes.stackplot(times, heights, colors=colours, alpha=0.75, labels=[name for name, _ in named])


def _time_axis(axes: Axes) -> None:
    first, last = axes.get_xlim()
    step = next((step for step in STEPS if last - first < 8 * step), STEPS[-1])
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(lambda seconds, _: datetime.fromtimestamp(seconds, UTC).strftime("%H:%M"))
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _colour(panel: Panel, value: float) -> str:
    if panel.limits is None:
        return "#222222"
    return COLOURS[([colour for at, colour in panel.limits.items() if value >= at] or ["green"])[-1]]


def _text(panel: Panel, value: float, digits: int = 3) -> str:
    if panel.names:
        return panel.names.get(int(value), "")
    return _number(panel.unit, value, digits)


def _number(unit: str, value: float, digits: int) -> str:
    """Return a value with its unit."""
    plain = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
    if "e-" in plain:
        plain = f"{value:.7f}".rstrip("0").rstrip(".")
    match unit:
        case "percentunit":
            return f"{round(100 * value, 6):.{digits}g} %"
        case "s":
            return f"{1000 * value:.{digits}g} ms" if abs(value) < 1 else f"{plain} s"
        case "bytes":
            return f"{value / 2**20:,.0f} MiB"
        case "currencyUSD":
            return f"${plain}"
        case "reqps":
            return f"{plain}/s"
    return plain
