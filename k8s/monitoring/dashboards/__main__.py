"""Writes the JSON of all dashboards, which is checked in."""

from pathlib import Path

from k8s.monitoring.dashboards import DASHBOARDS
from k8s.monitoring.dashboards.render import to_json

for dashboard in DASHBOARDS:
    (Path(__file__).parent / f"{dashboard.name}.json").write_text(to_json(dashboard))
