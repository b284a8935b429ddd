"""Grafana dashboards as code: `python -m k8s.monitoring.dashboards` writes their JSON beside this file.

Each dashboard is a module of dataclasses (`verdict`, `drift`, `shadow`, `serving`), which `render` turns into JSON.
"""

from k8s.monitoring.dashboards import drift, serving, shadow, verdict

DASHBOARDS = (verdict.DASHBOARD, drift.DASHBOARD, shadow.DASHBOARD, serving.DASHBOARD)
