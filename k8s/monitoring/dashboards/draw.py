"""Draw the dashboards with matplotlib, from the results of their queries: for a look at them without Grafana.

    python -m k8s.monitoring.dashboards.draw http://localhost:9090 [--hours 24] [--window 1d] [--output docs/images]

Each picture has the panels of a dashboard at the places that they have in Grafana. Fonts, colours and legends are not
Grafana's, variables choose everything, and events are left out.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from k8s.monitoring.dashboards import DASHBOARDS
from k8s.monitoring.dashboards.panels import Dashboard, Panel, Stat, Table
from k8s.monitoring.dashboards.plots import Found, Series, plot
from k8s.monitoring.dashboards.render import WINDOWS, to_json

WIDTH = 14.0  # inches
COLUMN, ROW = WIDTH / 24, 0.36
POINTS = 180
DPI = 100


@dataclass(frozen=True)
class Prometheus:
    """Answers queries about the time from `start` to `end` (Unix seconds), with a value for each variable."""

    client: httpx.Client
    start: float
    end: float
    window: str

    def found(self, panel: Panel) -> Found:
        """Return the series of each query of a panel, without values that are no numbers."""
        instant = isinstance(panel, Stat | Table)
        return [self._series(query.expr, instant) for query in panel.queries]

    def _series(self, expr: str, instant: bool) -> list[Series]:
        step = (self.end - self.start) / POINTS
        variables = {"$window": self.window, "$__rate_interval": f"{max(4 * step, 60):.0f}s"}
        variables |= dict.fromkeys(("$namespace", "$pod", "$model_version"), ".*")
        for variable, value in variables.items():
            expr = expr.replace(variable, value)
        times = {"time": self.end} if instant else {"start": self.start, "end": self.end, "step": step}
        answer = self.client.get(f"/api/v1/{'query' if instant else 'query_range'}", params={"query": expr, **times})
        answer.raise_for_status()
        result = answer.json()["data"]["result"]
        return [one for row in result if (one := _finite(row["metric"], row.get("values") or [row["value"]])).times]


def _finite(labels: dict[str, str], samples: list[list[Any]]) -> Series:
    numbers = [(float(at), float(value)) for at, value in samples if math.isfinite(float(value))]
    return Series(labels, [at for at, _ in numbers], [value for _, value in numbers])


def draw(dashboard: Dashboard, source: Prometheus, path: Path) -> None:
    """Write the picture of a dashboard at `path`."""
    placed = json.loads(to_json(dashboard))["panels"]
    height = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in placed)
    figure = Figure(figsize=(WIDTH, height * ROW), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = iter(dashboard.panels)
    for one in placed:
        at = one["gridPos"]
        if one["type"] == "row":
            place = (0.008, 1 - (at["y"] + 0.75) / height)
            figure.text(*place, f"{one['title']}", size=12, weight="bold")
            continue
        panel = next(panels)
        left, right = (at["x"] + 1.1) / 24, (at["x"] + at["w"] - 0.3) / 24
        bottom, top = 1 - (at["y"] + at["h"] - 0.7) / height, 1 - (at["y"] + 0.9) / height
        axes = figure.add_axes((left, bottom, right - left, top - bottom))
        plot(panel, axes, source.found(panel))
        figure.text(left, 1 - (at["y"] + 0.6) / height, panel.title.removesuffix(": $model_version"), size=9)
    whole = io.BytesIO()
    figure.savefig(whole, format="png")
    Image.open(whole).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def main() -> None:
    """Draw all dashboards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", help="the address of a Prometheus")
    parser.add_argument("--hours", type=float, default=24.0, help="how far back")
    parser.add_argument("--window", choices=WINDOWS, default="1d", help="the window of estimates")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    now = time.time()
    with httpx.Client(base_url=given.prometheus, timeout=60.0) as client:
        source = Prometheus(client, now - 3600 * given.hours, now, given.window)
        for dashboard in DASHBOARDS:
            draw(dashboard, source, given.output / f"dashboard-{dashboard.name}.png")


if __name__ == "__main__":
    main()
