"""The canary: what is rendered, its gates, and how Argo Rollouts judges them."""

import re

import pytest
import yaml

from k8s.monitoring.gates.document import documents
from service.shadow.rule_metrics import LIMITS
from tests.rehearsals import canary as rehearsal
from tests.support.argo import Phase, analyse, holds, worst
from tests.support.kustomize import K8S, find, rendered
from tests.support.promtool import RULES

ARGO = ("cpu", "keda", "monitoring", "canary-argo")


def template():
    return yaml.safe_load(documents()["canary-argo/analysis.yaml"])


def metric(**changes):
    given = template()
    given["spec"]["metrics"] = [given["spec"]["metrics"][0] | changes]
    return given


def answering(*answers):
    """A Prometheus that gives these answers in turn, the last for ever."""
    left = list(answers)

    async def query(text):
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return query


@pytest.mark.parametrize(("name", "text"), documents().items())
def test_the_written_gates_are_those_of_the_code(name, text):
    assert (K8S / "components" / name).read_text() == text


def test_gates_look_at_rules_and_limits_that_exist_and_have_no_constant_of_their_own():
    rules = yaml.safe_load(RULES.read_text())
    recorded = {rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}
    for gate in template()["spec"]["metrics"]:
        query = gate["provider"]["prometheus"]["query"]
        assert set(re.findall(r"\bmodel(?:_reason)?:[\w:]+", query)) <= recorded
        assert set(re.findall(r'limit="(\w+)"', query)) <= set(LIMITS)
        assert re.findall(r"(?<![\w.])\d[\d.]*(?!\w)", query) in ([], ["1"])  # a burn rate of 1: as fast as it is given


async def test_only_values_below_zero_pass_and_only_values_above_zero_fail():
    for answer, phase in (
        ([-1.0], Phase.SUCCESSFUL),
        ([1.0], Phase.FAILED),
        ([0.0], Phase.INCONCLUSIVE),
        ([], Phase.INCONCLUSIVE),
        ([float("nan")], Phase.INCONCLUSIVE),
        ([-1.0, -1.0], Phase.INCONCLUSIVE),
        (ConnectionError(), Phase.ERROR),
    ):
        found = await analyse(template(), {"hash": "x", "prometheus": ""}, answering(answer))
        assert set(found.values()) == {phase}, answer


async def test_one_measurement_without_data_is_enough_not_to_pass():
    given = {"hash": "x", "prometheus": ""}
    for first, phase in (([], Phase.INCONCLUSIVE), ([1.0], Phase.FAILED), (ConnectionError(), Phase.SUCCESSFUL)):
        assert worst(await analyse(metric(), given, answering(first, [-1.0]))) is phase


async def test_with_an_inconclusive_limit_no_data_would_be_a_pass():
    """Why the template has none: reaching `count` is a success, whatever the measurements were."""
    found = await analyse(metric(inconclusiveLimit=5), {"hash": "x", "prometheus": ""}, answering([]))
    assert worst(found) is Phase.SUCCESSFUL


def test_an_analysis_is_as_bad_as_its_worst_metric():
    assert worst({"a": Phase.SUCCESSFUL, "b": Phase.ERROR, "c": Phase.INCONCLUSIVE}) is Phase.ERROR
    assert worst({"a": Phase.FAILED, "b": Phase.ERROR}) is Phase.FAILED


def test_conditions_are_understood_as_argo_does():
    assert holds("len(result) == 2 && !isNaN(result[1]) || result[0] != 3", [3.0, 1.0])
    assert not holds("!(result[0] >= -1)", [0.0])
    with pytest.raises(IndexError):
        holds("result[0] < 1", [])
    for condition in ("default(result, 1) < 1", "all(result, {# > 1})", "result.x > 1"):
        with pytest.raises((ValueError, SyntaxError)):
            holds(condition, [1.0])


def test_the_analysis_asks_about_the_pods_of_the_new_version():
    canary = find(rendered(*ARGO), "Rollout", "reflux")["spec"]["strategy"]["canary"]
    analyses = [step["analysis"] for step in canary["steps"] if "analysis" in step]
    assert [step["setWeight"] for step in canary["steps"] if "setWeight" in step] == [5, 25]
    assert len(analyses) == 2
    known = find(rendered(*ARGO), "AnalysisTemplate", "reflux-live-gap")["spec"]["args"]
    required = {argument["name"] for argument in known if "value" not in argument}
    for each in analyses:
        assert [used["templateName"] for used in each["templates"]] == ["reflux-live-gap"]
        assert {argument["name"] for argument in each["args"]} == required
        assert each["args"] == [{"name": "hash", "valueFrom": {"podTemplateHashValue": "Latest"}}]


@pytest.mark.parametrize(
    ("components", "kind"),
    [(("cpu", "canary-argo"), "HorizontalPodAutoscaler"), (("cpu", "keda", "canary-argo"), "ScaledObject")],
)
def test_what_is_scaled_is_the_rollout(components, kind):
    target = find(rendered(*components), kind, "reflux")["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "reflux"}


@pytest.mark.parametrize("name", ["reflux", "reflux-worker"])
def test_a_rollout_takes_over_a_deployment_as_it_is(name):
    documents = rendered(*ARGO)
    deployment, rollout = (find(documents, kind, name)["spec"] for kind in ("Deployment", "Rollout"))
    assert rollout["workloadRef"]["name"] == name
    assert rollout["selector"] == deployment["selector"]
    assert rollout["minReadySeconds"] == 10
    assert rollout["strategy"]["canary"]["maxUnavailable"] == 0


def test_a_canary_is_compared_more_often_than_the_stable_version():
    documents = rendered(*ARGO)
    canary = find(documents, "Rollout", "reflux")["spec"]["strategy"]["canary"]
    rates = [canary[role]["annotations"]["reflux/shadow-rate"] for role in ("stableMetadata", "canaryMetadata")]
    template = find(documents, "Deployment", "reflux")["spec"]["template"]
    settings = find(documents, "ConfigMap", "reflux-settings")["data"]
    assert rates[0] == template["metadata"]["annotations"]["reflux/shadow-rate"] == settings["REFLUX_SHADOW__RATE"]
    assert float(rates[1]) >= 10 * float(rates[0])
    (container,) = template["spec"]["containers"]
    (rate,) = [one for one in container["env"] if one["name"] == "REFLUX_SHADOW__RATE"]
    assert rate["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.annotations['reflux/shadow-rate']"


@pytest.mark.timeout(120)
async def test_a_good_candidate_passes_and_a_bad_one_fails_on_a_real_prometheus(tmp_path):
    outcomes = await rehearsal.rehearse(tmp_path, names=("good", "bad", "idle"))
    assert len(outcomes) == 2 * 3 + 4
    assert all(outcome.right for outcome in outcomes), rehearsal.table(outcomes)
