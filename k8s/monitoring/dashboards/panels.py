"""What a dashboard says, without Grafana: panels, queries and thresholds as dataclasses.

`render` makes Grafana's JSON of them, and `draw` makes pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Query:
    """A PromQL expression in which Grafana's variables stand. `legend` names its series, or its column in a table."""

    expr: str
    legend: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel; the subclasses say how it is drawn.

    - `description`: how to read it, for somebody who has not seen it before.
    - `unit`: of Grafana's units, such as `percentunit` (a ratio in [0, 1]), `s`, `reqps`, `short`.
    - `width`: of the 24 columns of a dashboard; `height` in rows of 30 pixels.
    - `limits`: values from which on a colour holds, in ascending order; below the first it is green.
    - `names`: names of single values.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 12
    height: int = 8
    decimals: int | None = None
    limits: Mapping[float, str] | Mapping[int, str] | None = None
    names: Mapping[int, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Stat(Panel):
    """The newest value of each series, large."""

    width: int = 6
    height: int = 4


@dataclass(frozen=True, kw_only=True)
class Lines(Panel):
    """Series over time, with dashed lines at `limits`.

    Series named `lower` and `upper` are the ends of an interval, and filled between. With `repeat` there is one panel
    for each model version, so that these names are unique.
    """

    stacked: bool = False
    logarithmic: bool = False
    repeat: bool = False
    floor: float | None = 0.0


@dataclass(frozen=True, kw_only=True)
class States(Panel):
    """Named values over time, as coloured bars."""

    height: int = 5


@dataclass(frozen=True, kw_only=True)
class Table(Panel):
    """The newest values: one row for each set of labels, one column for each query.

    - `units`: of columns with another unit than that of the panel.
    - `sort`: the column by which rows are sorted, largest first.
    """

    units: Mapping[str, str] | None = None
    sort: str | None = None


@dataclass(frozen=True)
class Row:
    """A heading, and the panels below it from left to right."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; `name` is its file's and, after `reflux-`, its unique id. It opens with the time from `since`."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    since: str = "now-24h"

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)
