"""The canary without Argo: its pods differ from the stable ones in the bundle, and its Job may do very little."""

import pytest

from tests.support.kustomize import Document, find, pod_templates, rendered


@pytest.fixture
def documents():
    return rendered("cpu", "canary-plain")


def of_kind(documents, kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def test_the_job_may_change_the_stable_deployments_and_scale_the_canary_and_nothing_else(documents):
    (role,), (binding,) = of_kind(documents, "Role"), of_kind(documents, "RoleBinding")
    assert role["rules"] == [
        {
            "apiGroups": ["apps"],
            "resources": ["deployments"],
            "resourceNames": ["reflux", "reflux-worker"],
            "verbs": ["get", "patch"],
        },
        {
            "apiGroups": ["apps"],
            "resources": ["deployments/scale"],
            "resourceNames": ["reflux-canary", "reflux-canary-worker"],
            "verbs": ["patch"],
        },
    ]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reflux-promote"}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "reflux-promote", "namespace": "reflux"}]
    assert not of_kind(documents, "ClusterRole") + of_kind(documents, "ClusterRoleBinding")


def test_its_account_is_used_by_nothing_else_and_its_token_is_in_one_container(documents):
    pods = pod_templates(documents)
    users = [name for name, pod in pods.items() if pod["spec"]["serviceAccountName"] == "reflux-promote"]
    assert users == ["CronJob/reflux-promote"]
    pod = pods[users[0]]["spec"]
    assert pod["automountServiceAccountToken"] is False
    tokens = [
        volume["name"]
        for volume in pod["volumes"]
        if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", ()))
    ]
    holders = [
        container["name"]
        for container in [*pod["initContainers"], *pod["containers"]]
        if any(mount["name"] in tokens for mount in container["volumeMounts"])
    ]
    assert holders == ["promote"]


def test_nothing_is_served_or_started_by_applying_it(documents):
    for name in ("reflux-canary", "reflux-canary-worker"):
        assert find(documents, "Deployment", name)["spec"]["replicas"] == 0
    assert find(documents, "CronJob", "reflux-promote")["spec"]["suspend"] is True


def test_a_replay_comes_before_the_first_request_and_no_outcome_is_tried_again(documents):
    job = find(documents, "CronJob", "reflux-promote")["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    assert [each["name"] for each in pod["initContainers"]] == ["pull-current", "pull-candidate", "replay"]
    assert pod["restartPolicy"] == "Never"
    rule = job["podFailurePolicy"]["rules"][0]
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 3, 4]}}


@pytest.mark.parametrize(("stable", "canary"), [("reflux", "reflux-canary"), ("reflux-worker", "reflux-canary-worker")])
def test_the_canary_differs_from_the_stable_pods_in_the_bundle_and_the_sampling_alone(documents, stable, canary):
    pods = pod_templates(documents)
    ours, theirs = (pods[f"Deployment/{name}"]["spec"] for name in (stable, canary))
    for key in ours.keys() | theirs.keys():
        if key not in ("containers", "initContainers"):
            assert ours[key] == theirs[key], key
    for kind in ("containers", "initContainers"):
        for one, other in zip(ours[kind], theirs[kind], strict=True):
            assert {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)} <= {"env", "envFrom"}
            raised = [each for each in other.get("env", ()) if each not in one.get("env", ())]
            assert raised == (
                [{"name": "REFLUX_SHADOW__RATE", "value": "0.2"}]
                if kind == "containers" and canary == "reflux-canary"
                else []
            )
            maps = [each["configMapRef"]["name"] for each in other["envFrom"]]
            assert len(maps) == 1
            assert maps[0].startswith("reflux-candidate-" if other["name"] == "pull" else "reflux-settings-")


def test_the_service_sends_to_the_canary_and_the_workers_service_does_not(documents):
    pods = pod_templates(documents)
    for service, received in (("reflux", True), ("reflux-worker", False)):
        selector = find(documents, "Service", service)["spec"]["selector"]
        labels = [
            pods[f"Deployment/{name}"]["metadata"]["labels"] for name in ("reflux-canary", "reflux-canary-worker")
        ]
        assert any(selector.items() <= each.items() for each in labels) is received


def test_the_autoscaler_stays_with_the_stable_version(documents):
    assert find(documents, "HorizontalPodAutoscaler", "reflux")["spec"]["scaleTargetRef"]["name"] == "reflux"


def test_both_of_its_deployments_are_scraped():
    documents = rendered("cpu", "canary-plain", "monitoring")
    (expression,) = find(documents, "PodMonitor", "reflux")["spec"]["selector"]["matchExpressions"]
    for name in ("reflux-canary", "reflux-canary-worker"):
        labels = pod_templates(documents)[f"Deployment/{name}"]["metadata"]["labels"]
        assert labels[expression["key"]] in expression["values"]
