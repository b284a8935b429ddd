"""Grafana dashboards as code: `make monitoring` writes their JSON beside this file.

Each dashboard is a module of dataclasses (`verdict`, `drift`, `shadow`, `serving`), which `render` turns into JSON.
`draw` makes pictures of them without Grafana.
"""

from k8s.monitoring.dashboards import drift, serving, shadow, verdict

DASHBOARDS = (verdict.DASHBOARD, drift.DASHBOARD, shadow.DASHBOARD, serving.DASHBOARD)
