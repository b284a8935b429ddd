"""Write the gates: `python -m k8s.monitoring.gates`, or `make monitoring`."""

from __future__ import annotations

from pathlib import Path

from k8s.monitoring.gates.document import documents

for name, text in documents().items():
    (Path(__file__).parents[2] / "components" / name).write_text(text, encoding="utf-8")
