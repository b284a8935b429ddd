"""What every pod promises: how it is probed and stopped, what it may do on a node, where its secrets and data are."""

import json
from collections.abc import Iterator

import pytest

from service.settings import load_settings
from tests.support.kustomize import Document, combinations, find, pod_templates, render, rendered, write_overlay

ALWAYS_ON = ("Deployment", "StatefulSet", "Rollout")
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
"""Those that the restricted Pod Security standard allows; `image` since Kubernetes 1.33."""
SPANS, MARGIN = 5, 3
"""Seconds that the last spans take at most, and those that nothing accounts for."""


def pods(*kinds: str) -> Iterator[tuple[str, Document, dict[str, str]]]:
    """Yield every different pod of all combinations: a name for messages, its spec, and the settings of its map."""
    seen = set()
    for combination in combinations():
        documents = rendered(*combination)
        settings = find(documents, "ConfigMap", "reflux-settings")["data"]
        for name, template in pod_templates(documents).items():
            key = json.dumps([name, template], sort_keys=True)
            if key not in seen and name.split("/")[0] in (kinds or (name.split("/")[0],)):
                seen.add(key)
                yield f"{'+'.join(combination)}: {name}", template["spec"], settings


def of_reflux(*combination: str) -> dict[str, tuple[Document, dict[str, str]]]:
    """Return the pods that run Reflux, each with its environment."""
    documents = rendered(*combination)
    settings = find(documents, "ConfigMap", "reflux-settings")["data"]
    found = {}
    for name, template in pod_templates(documents).items():
        container = template["spec"]["containers"][0]
        if container["name"] == "reflux" and name.startswith("Deployment/"):
            own = {each["name"]: each["value"] for each in container["env"] if "value" in each}
            found[name.removeprefix("Deployment/")] = template["spec"], settings | own
    return found


def test_every_pod_meets_the_restricted_standard():
    checked = 0
    for name, pod, _ in pods():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert all(set(volume) - {"name"} <= VOLUMES for volume in pod["volumes"]), name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert not {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile", "procMount"} & context.keys(), name
            assert not any("hostPort" in port for port in container.get("ports", ())), name
        checked += 1
    assert checked > 5


def test_the_namespace_refuses_pods_that_do_not_meet_it():
    for combination in combinations():
        (namespace,) = [found for found in rendered(*combination) if found["kind"] == "Namespace"]
        labels = namespace["metadata"]["labels"]
        modes = ("enforce", "audit", "warn")
        assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in modes} == {"restricted"}


def test_no_pod_has_a_token_of_the_cluster_or_addresses_of_services():
    for name, pod, _ in pods():
        if "rbac" not in name and pod.get("serviceAccountName") in (None, "reflux", "reflux-worker"):
            assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name


def test_serving_and_the_worker_have_accounts_of_their_own():
    pods = of_reflux("cpu")
    accounts = {name: pod["serviceAccountName"] for name, (pod, _) in pods.items()}
    assert accounts == {"reflux": "reflux", "reflux-worker": "reflux-worker"}


def test_every_long_running_pod_is_probed():
    for name, pod, _ in pods(*ALWAYS_ON):
        (container,) = pod["containers"]
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe].get("httpGet", {}).get("port", "http") in ports | {"http"}, name
        startup, live = container["startupProbe"], container["livenessProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 120, name
        assert live["periodSeconds"] * live["failureThreshold"] >= 30, name  # a busy process is not a dead one


def test_the_probes_are_those_of_the_service():
    for name, (pod, _) in of_reflux("cpu").items():
        (container,) = pod["containers"]
        paths = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
        assert paths == {
            "startupProbe": {"path": "/startupz", "port": "http"},
            "readinessProbe": {"path": "/readyz", "port": "http"},
            "livenessProbe": {"path": "/livez", "port": "http"},
        }, name


def test_a_pod_is_given_exactly_the_time_that_its_end_takes():
    checked = 0
    for name, pod, settings in pods("Deployment", "Rollout"):
        (container,) = pod["containers"]
        serves = container["command"] == ["reflux", "serve"]
        steps = [
            container["lifecycle"]["preStop"]["sleep"]["seconds"],
            float(settings["REFLUX_DRAIN_SECONDS"]) * serves,
            float(settings["REFLUX_IDLE_GRACE_SECONDS"]) * serves,
            float(settings["REFLUX_SHUTDOWN_SECONDS"]),
            float(settings["REFLUX_SHADOW__STOP_SECONDS"]),
        ]
        assert pod["terminationGracePeriodSeconds"] == sum(steps) + SPANS + MARGIN, name
        assert steps[0] >= 5, name  # until whoever reads the endpoints has seen that the pod is gone
        checked += 1
    assert checked


def test_no_container_has_a_cpu_limit_and_every_one_has_a_memory_limit():
    for name, pod, _ in pods():
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            assert "cpu" not in container["resources"]["limits"], name
            assert "memory" in container["resources"]["limits"], name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name


def test_inference_threads_are_the_cpus_requested():
    own = {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1"}}
    for combination in (("cpu",), ("dev",), ("cpu", "monitoring")):
        pod, settings = of_reflux(*combination)["reflux"]
        variables = {each["name"]: each.get("valueFrom") for each in pod["containers"][0]["env"]}
        assert variables["REFLUX_WORKERS"] == own
        assert not {"REFLUX_WORKERS", "REFLUX_THREADS"} & settings.keys()  # without the second, a run has one thread


def test_on_a_gpu_serving_alone_uses_it():
    documents = of_reflux("gpu")
    serving, worker = documents["reflux"][0]["containers"][0], documents["reflux-worker"][0]["containers"][0]
    assert serving["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "REFLUX_DEVICE", "value": "cuda"} in serving["env"]
    assert "REFLUX_WORKERS" not in {each["name"] for each in serving["env"]}
    assert "nvidia.com/gpu" not in worker["resources"]["limits"]
    assert {"name": "REFLUX_DEVICE", "value": "cpu"} in worker["env"]
    tolerated = [pod.get("tolerations", []) for pod, _ in (documents["reflux"], documents["reflux-worker"])]
    assert tolerated == [[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}], []]
    containers = [
        each for pod, _ in documents.values() for each in [*pod["containers"], *pod.get("initContainers", [])]
    ]
    assert {each["image"] for each in containers} == {"reflux:0.1.0-gpu"}


def test_secrets_are_files_and_never_variables():
    for name, pod, _ in pods():
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            for variable in container.get("env", ()):
                assert "secretKeyRef" not in variable.get("valueFrom", {}), name
            assert not any("secretRef" in source for source in container.get("envFrom", ())), name
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            for volume in pod["volumes"]:
                if "secret" in volume and volume["name"] in mounts:
                    assert mounts[volume["name"]]["readOnly"] is True, name
                    assert "subPath" not in mounts[volume["name"]], name  # it would never see a changed Secret
                    assert volume["secret"]["defaultMode"] == 0o440, name


def test_the_worker_brings_the_tables_up_to_its_version_before_it_starts():
    pod = pod_templates(rendered("cpu"))["Deployment/reflux-worker"]["spec"]
    (migrate,), (worker,) = pod["initContainers"], pod["containers"]
    assert migrate["command"] == ["reflux", "migrate"]
    assert migrate["image"] == worker["image"]
    assert migrate["envFrom"] == worker["envFrom"]
    assert {"name": "database", "mountPath": "/database", "readOnly": True} in migrate["volumeMounts"]


def test_the_worker_alone_has_the_key_of_the_teacher():
    def secrets(pod):
        return {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}

    pods = of_reflux("cpu")
    serving, worker = secrets(pods["reflux"][0]), secrets(pods["reflux-worker"][0])
    assert serving == {"reflux-keys", "reflux-database"}
    assert worker == {"reflux-keys", "reflux-database", "reflux-teacher"}
    assert secrets(of_reflux("cpu", "deferring")["reflux"][0]) == worker
    assert pods["reflux"][1]["REFLUX_SHADOW__ASK"] == "false"
    assert "REFLUX_SHADOW__ASK" not in pods["reflux-worker"][1]


def test_the_shadow_store_is_a_database_and_nothing_is_kept_in_an_empty_dir():
    for name, pod, settings in pods():
        assert settings["REFLUX_SHADOW__DATABASE"].startswith("postgresql://"), name
        assert "REFLUX_SHADOW__PATH" not in settings, name
        for volume in pod["volumes"]:
            if "emptyDir" in volume:
                assert volume["name"] in {"tmp", "run", "bundle"}, name  # a bundle that is pulled anew
                assert "sizeLimit" in volume["emptyDir"], name


def test_the_database_for_development_keeps_its_data_in_a_claim():
    database = find(rendered("dev"), "StatefulSet", "reflux-database")["spec"]
    (claim,) = database["volumeClaimTemplates"]
    (container,) = database["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["PGDATA"].startswith(mounts[claim["metadata"]["name"]] + "/")


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "dev"])
def test_a_container_has_what_its_settings_name(overlay):
    for name, (pod, settings) in of_reflux(overlay).items():
        (container,) = pod["containers"]
        ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
        assert ports == {"http": settings["REFLUX_PORT"], "metrics": settings["REFLUX_METRICS_PORT"]}, name
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        files = [settings["REFLUX_BUNDLE"], settings["REFLUX_SHADOW__DATABASE_PASSWORD_FILE"]]
        assert {"/" + file.split("/")[1] for file in files} <= mounts, name


def test_it_serves_without_a_teacher_and_a_database_if_shadowing_is_off(tmp_path, monkeypatch):
    off = {"name": "reflux-settings", "behavior": "merge", "literals": ["REFLUX_SHADOW__ENABLED=false"]}
    write_overlay(tmp_path, "cpu", replicas=[{"name": "reflux-worker", "count": 0}], configMapGenerator=[off])
    documents = render(tmp_path)
    assert find(documents, "Deployment", "reflux-worker")["spec"]["replicas"] == 0
    pod = find(documents, "Deployment", "reflux")["spec"]["template"]["spec"]
    assert all(volume["secret"]["optional"] for volume in pod["volumes"] if "secret" in volume)
    for variable, value in find(documents, "ConfigMap", "reflux-settings")["data"].items():
        monkeypatch.setenv(variable, value)
    assert not load_settings().shadow.enabled


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "dev"])
def test_every_setting_is_one_of_the_service(overlay, monkeypatch):
    for _, (_, settings) in of_reflux(overlay).items():
        with monkeypatch.context() as environment:
            for variable, value in settings.items():
                environment.setenv(variable, value)
            assert load_settings().shadow.enabled
