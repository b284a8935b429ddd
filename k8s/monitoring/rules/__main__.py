"""Write the rules: `python -m k8s.monitoring.rules`, or `make monitoring`.

`rules.yaml` is for `rule_files` of a plain Prometheus, `prometheusrule.yaml` the same for the Prometheus operator.
"""

from __future__ import annotations

from pathlib import Path

from k8s.monitoring.rules.document import documents

for name, text in documents().items():
    (Path(__file__).parents[1] / name).write_text(text, encoding="utf-8")
