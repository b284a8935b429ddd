"""The monitoring rules are what their source says, parse, and name what the service exports or another rule records."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from k8s.monitoring.rules.document import documents
from tests.support.kustomize import find, rendered
from tests.support.promtool import PROMTOOL

MONITORING = Path(__file__).parents[2] / "k8s" / "monitoring"
SURFACE = Path(__file__).parents[1] / "service" / "surface" / "metrics.json"
RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
ALLOWED = {"0", "0.5", "1", "2", "3", "4", "1e-09"}
"""0 and 1, the halves, squares and cubes of formulas, the code of `blind`, and rounding."""


def rules():
    return [rule for group in yaml.safe_load(documents()["rules.yaml"])["groups"] for rule in group["rules"]]


def bare(expression):
    """Return an expression without its strings, durations and comments."""
    return re.sub(r'"[^"]*"|\[[^\]]*\]', "", expression)


@pytest.mark.parametrize("name", ["rules.yaml", "prometheusrule.yaml"])
def test_the_files_are_written_from_their_source(name):
    assert (MONITORING / name).read_text() == documents()[name], "run `make monitoring`"


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (Debian: prometheus)")
def test_prometheus_reads_them():
    checked(MONITORING / "rules.yaml")


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (Debian: prometheus)")
def test_prometheus_reads_what_a_cluster_gets_with_the_component_monitoring(tmp_path):
    rendered_rules = find(rendered("base", "monitoring"), "PrometheusRule", "reflux")["spec"]
    assert rendered_rules["groups"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rendered_rules))
    checked(tmp_path / "rules.yaml")


def checked(file):
    """Fail unless promtool reads a file of rules."""
    done = subprocess.run([PROMTOOL, "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_rule_has_a_constant_of_its_own():
    found = {
        number: rule.get("record", rule.get("alert"))
        for rule in rules()
        for number in re.findall(r"(?<![\w.:])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w:])", bare(rule["expr"]))
        if number not in ALLOWED
    }
    assert found == {}


def test_every_series_is_exported_or_recorded():
    known = set(json.loads(SURFACE.read_text())) | {rule["record"] for rule in rules() if "record" in rule}
    named = {name for rule in rules() for name in re.findall(r"\b(?:\w+:)?reflux_\w+(?::\w+)?", bare(rule["expr"]))}
    assert named - known == set()


def test_every_series_is_of_one_model_version():
    for rule in rules():
        for labels in re.findall(r"\b(?:sum|min|max|avg|count) by \(([^)]*)\)", rule["expr"]):
            assert "model_version" in labels, rule


def test_counters_are_made_rates_before_they_are_added():
    """But for the rule that looks for texts that are nowhere, at one moment."""
    for rule in rules():
        expression = re.sub(r"\{[^}]*\}", "", rule["expr"])
        raw = re.findall(r"\breflux_\w+_(?:total|bucket|count)\b(?!\[)", expression)
        assert not raw or rule.get("record") == "model:reflux_shadow:missing", (rule, raw)


def alerts():
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def test_an_alert_waits_lasts_and_pages_for_the_gap_and_for_availability_alone():
    for alert in alerts().values():
        assert {"for", "keep_firing_for"} <= set(alert), alert
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    pages = {name for name, alert in alerts().items() if alert["labels"] == {"severity": "page"}}
    assert pages == {"RefluxGapExceeded", "RefluxGapRose", "RefluxAvailability", "RefluxAbsent"}
    assert all(alert["labels"]["severity"] in {"page", "ticket"} for alert in alerts().values())


def test_each_alert_has_its_section_of_the_runbook():
    sections = dict(part.split("\n", 1) for part in RUNBOOK.read_text().split("\n## ")[1:])
    assert list(sections) == list(alerts())
    for name, alert in alerts().items():
        assert alert["annotations"]["runbook_url"].endswith(f"/docs/runbook.md#{name.lower()}")
        for part in ("**What it says.**", "**Which cause.**", "**What to do.**", "**It is over when**"):
            assert part in sections[name], (name, part)


def test_the_runbook_names_what_there_is():
    known = set(json.loads(SURFACE.read_text())) | {rule["record"] for rule in rules() if "record" in rule}
    named = re.findall(r"(?:\b\w+:)?reflux_\w+(?::\w+)?", RUNBOOK.read_text())
    histograms = {name.removesuffix("_bucket") for name in known}
    assert [name for name in named if name not in known | histograms] == []
    settings = json.loads((SURFACE.parent / "settings.json").read_text())
    assert [name for name in re.findall(r"REFLUX_\w+", RUNBOOK.read_text()) if name not in settings] == []
