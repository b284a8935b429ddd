"""The files of the gates, as text: an AnalysisTemplate for Argo Rollouts, and a list for the plain canary."""

from __future__ import annotations

from k8s.monitoring.gates.gate import FAILURE, SUCCESS, Gate, gates
from k8s.monitoring.rules.document import dumped

ADDRESS = "http://prometheus-operated.monitoring:9090"

COUNT = 3
INTERVAL = "5m"
"""A gate is asked three times, five minutes apart, and must pass each time."""


def documents() -> dict[str, str]:
    """Return the text of each file by its path below k8s/components."""
    plain = [{"name": gate.name, "query": gate.query} for gate in gates("reflux-canary-.+")]
    return {"canary-argo/analysis.yaml": dumped(_template()), "canary-plain/gates.yaml": dumped({"gates": plain})}


def _template() -> dict[str, object]:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {
            "name": "reflux-live-gap",
            "labels": {"app.kubernetes.io/name": "reflux", "app.kubernetes.io/component": "canary"},
        },
        "spec": {
            "args": [{"name": "hash"}, {"name": "prometheus", "value": ADDRESS}],
            "metrics": [_metric(gate) for gate in gates("reflux-{{args.hash}}-.+")],
        },
    }


def _metric(gate: Gate) -> dict[str, object]:
    """Return a metric of Argo's. With an `inconclusiveLimit`, `count` measurements without data would be a success."""
    return {
        "name": gate.name,
        "count": COUNT,
        "interval": INTERVAL,
        "failureLimit": 0,
        "inconclusiveLimit": 0,
        "successCondition": SUCCESS,
        "failureCondition": FAILURE,
        "provider": {"prometheus": {"address": "{{args.prometheus}}", "query": gate.query}},
    }
