"""The files of the rules, as text: for a plain Prometheus, and as a PrometheusRule for its operator."""

from __future__ import annotations

import yaml

from k8s.monitoring.rules.alerts import alerts_group
from k8s.monitoring.rules.answers import answers_group
from k8s.monitoring.rules.rule import Group
from k8s.monitoring.rules.totals import constants_group, verdict_group
from k8s.monitoring.rules.windows import INTERVALS, window_group

_HEADER = "# Written by `make monitoring` from k8s/monitoring.\n"


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def groups() -> list[Group]:
    """Return all rules, in the order in which they depend on each other."""
    windows = (window_group(window) for window in INTERVALS)
    return [constants_group(), *windows, verdict_group(), answers_group(), alerts_group()]


def documents() -> dict[str, str]:
    """Return the text of each file by its name."""
    rules = {"groups": [group.as_dict() for group in groups()]}
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "reflux"},
        "spec": rules,
    }
    return {"rules.yaml": dumped(rules), "prometheusrule.yaml": dumped(resource)}


def dumped(document: object) -> str:
    """Return a document as YAML, with texts of several lines as blocks."""
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
    return f"{_HEADER}{text}"
