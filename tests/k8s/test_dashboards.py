"""The dashboards that are checked in: they are what the generator makes, and a reader can read every panel."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from k8s.monitoring import dashboards
from k8s.monitoring.dashboards import DASHBOARDS
from k8s.monitoring.dashboards.panels import Table
from k8s.monitoring.dashboards.render import ANNOTATIONS, to_json

FOLDER = Path(dashboards.__file__).parent
SURFACE = Path(__file__).parents[1] / "service" / "surface" / "metrics.json"
PANELS = [pytest.param(panel, id=f"{one.name}: {panel.title}") for one in DASHBOARDS for panel in one.panels]
ESTIMATES = re.compile(
    r"reflux_gap_(ratio|window_ratio|class|direction|decision)\b|disagree_weight|_divergence_total|witness_agreed"
)
RATIO = re.compile(r"histogram_quantile|_total\b.* / .*_total\b|_sum\b.* / .*_count\b")
METRIC = re.compile(r"\b((?:reflux|process)_\w+)\{([^}]*)\}")


def reads(panel):
    """Return the expressions of a panel."""
    return " ".join(query.expr for query in panel.queries)


def tree(dashboard):
    return json.loads((FOLDER / f"{dashboard.name}.json").read_text())


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_the_json_is_what_the_generator_makes(dashboard):
    assert (FOLDER / f"{dashboard.name}.json").read_text() == to_json(dashboard), "run `make monitoring`"


def test_every_json_has_a_generator():
    assert {path.stem for path in FOLDER.glob("*.json")} == {dashboard.name for dashboard in DASHBOARDS}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_the_data_source_is_the_one_that_is_chosen(dashboard):
    text = (FOLDER / f"{dashboard.name}.json").read_text()
    assert set(re.findall(r'"uid": "(.*?)"', text)) == {"${datasource}", f"reflux-{dashboard.name}"}
    variables = [variable["name"] for variable in tree(dashboard)["templating"]["list"]]
    assert variables == ["datasource", "namespace", "pod", "model_version", "window"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_deployments_and_teacher_versions_are_marked(dashboard):
    assert [one["name"] for one in tree(dashboard)["annotations"]["list"]] == ["Deployments", "Teacher versions"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_panels_neither_overlap_nor_leave_the_page(dashboard):
    taken = set()
    for panel in tree(dashboard)["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_how_to_read_it(panel):
    assert len(panel.description.split()) >= 12
    assert panel.queries


@pytest.mark.parametrize("panel", [param for param in PANELS if ESTIMATES.search(reads(param.values[0]))])
def test_an_estimate_has_its_interval(panel):
    legends = " ".join(query.legend for query in panel.queries)
    assert "lower" in legends
    assert "upper" in legends


def test_what_an_interval_is_asked_of_are_all_estimates():
    assert {param.id for param in PANELS if ESTIMATES.search(reads(param.values[0]))} == {
        "verdict: Gap over time, all pods: $model_version",
        "verdict: Windows",
        "verdict: Pods",
        "drift: Gap, expected and unexpected: $model_version",
        "drift: Confidence bands",
        "drift: Worst predicted labels",
        "drift: Directions of disagreement",
        "drift: Divergence: $model_version",
        "drift: Gap of the decision",
        "shadow: Agreement of student and witness: $model_version",
    }


@pytest.mark.parametrize("panel", [param for param in PANELS if RATIO.search(reads(param.values[0]))])
def test_any_other_share_mean_or_percentile_is_of_all_or_has_its_n(panel):
    legends = " ".join(query.legend for query in panel.queries)
    shown = re.search(r"\bn\b|\blower\b|\bcomparisons\b", legends)
    assert shown or re.search(r"\bexact\b|no estimate|no sample|over all runs", panel.description, re.IGNORECASE)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_reads_metrics_that_the_service_has(panel):
    metrics = json.loads(SURFACE.read_text())
    for query in panel.queries:
        found = METRIC.findall(query.expr)
        assert found
        for name, matchers in found:
            labels = {matcher.split("=")[0].rstrip("!~") for matcher in matchers.split(", ")}
            assert {"namespace", "pod"} <= labels
            assert labels - {"namespace", "pod"} <= set(metrics[name])
            assert ("model_version" in labels) == ("model_version" in metrics[name])


@pytest.mark.parametrize("panel", PANELS)
def test_lines_and_columns_have_names_of_their_own(panel):
    legends = [query.legend for query in panel.queries]
    assert len(set(legends)) == len(legends)
    if isinstance(panel, Table):
        assert not any("{{" in legend for legend in legends)


def test_events_are_of_the_chosen_hosts():
    for expr, _text, _colour in ANNOTATIONS.values():
        assert all('namespace=~"$namespace"' in matchers for _name, matchers in METRIC.findall(expr))


def test_kustomize_makes_a_configmap_of_each_that_kubectl_can_apply():
    maps = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["configMapGenerator"]
    assert {one["name"]: one["files"] for one in maps} == {
        f"reflux-dashboard-{dashboard.name}": [f"{dashboard.name}.json"] for dashboard in DASHBOARDS
    }
    for dashboard in DASHBOARDS:
        copy = json.dumps({"data": {f"{dashboard.name}.json": to_json(dashboard)}})
        assert len(copy) < 250 * 1024  # of the 256 KiB that annotations may have together
