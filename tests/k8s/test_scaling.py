"""How many pods there are, where they are, and when they go."""

import json
import re
from pathlib import Path

from tests.support.kustomize import combinations, find, pod_templates, rendered

METRICS = json.loads((Path(__file__).parents[1] / "service" / "surface" / "metrics.json").read_text())
INFLIGHT = "reflux_inference_inflight"
SERVING = {"app.kubernetes.io/name": "reflux", "app.kubernetes.io/component": "serving"}


def metrics(*combination):
    return find(rendered(*combination), "HorizontalPodAutoscaler", "reflux")["spec"]["metrics"]


def test_the_base_scales_by_the_cpu_time_of_the_container_of_reflux():
    (metric,) = metrics("cpu")
    assert metric["type"] == "ContainerResource"
    (container,) = pod_templates(rendered("cpu"))["Deployment/reflux"]["spec"]["containers"]
    assert metric["containerResource"]["container"] == container["name"]
    assert metric["containerResource"]["name"] == "cpu"


def test_texts_in_flight_can_be_added():
    cpu, inflight = metrics("cpu", "inflight")
    assert cpu["type"] == "ContainerResource"
    assert inflight["pods"] == {"metric": {"name": INFLIGHT}, "target": {"type": "AverageValue", "averageValue": "4"}}
    assert INFLIGHT in METRICS


def test_a_gpu_is_scaled_by_texts_in_flight_alone():
    (metric,) = metrics("gpu")
    assert metric["pods"]["metric"]["name"] == INFLIGHT


def test_an_autoscaler_grows_at_once_and_shrinks_slowly():
    behavior = find(rendered("cpu"), "HorizontalPodAutoscaler", "reflux")["spec"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
    keda = find(rendered("cpu", "keda"), "ScaledObject", "reflux")["spec"]
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == behavior


def test_a_number_of_pods_that_an_autoscaler_sets_is_set_by_nobody_else():
    for combination in combinations():
        documents = rendered(*combination)
        scalers = [found for found in documents if found["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]
        (scaler,) = scalers
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in find(documents, target["kind"], target["name"])["spec"], combination


def test_keda_takes_over_the_autoscaler_of_the_base():
    scaled = find(rendered("cpu", "keda"), "ScaledObject", "reflux")
    assert scaled["metadata"]["annotations"]["scaledobject.keda.sh/transfer-hpa-ownership"] == "true"
    assert scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["name"] == "reflux"
    assert not [found for found in rendered("cpu", "keda") if found["kind"] == "HorizontalPodAutoscaler"]


def test_keda_never_takes_missing_data_for_an_idle_service():
    spec = find(rendered("cpu", "keda"), "ScaledObject", "reflux")["spec"]
    cpu, prometheus = spec["triggers"]
    assert prometheus["metadata"]["ignoreNullValues"] == "false"
    assert prometheus["metricType"] == "AverageValue"  # KEDA falls back for no other type
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["fallback"]["replicas"] >= spec["minReplicaCount"] >= 2
    assert cpu["metadata"]["containerName"] == "reflux"


def test_keda_asks_for_a_metric_of_the_service_in_its_own_namespace():
    scaled = find(rendered("cpu", "keda"), "ScaledObject", "reflux")
    query = scaled["spec"]["triggers"][1]["metadata"]["query"]
    name, namespace = re.fullmatch(r'sum\((\w+)\{namespace="([^"]+)"\}\)', query).groups()
    assert name == INFLIGHT
    assert namespace == scaled["metadata"]["namespace"]


def test_one_serving_pod_at_a_time_may_be_evicted():
    budget = find(rendered("cpu"), "PodDisruptionBudget", "reflux")["spec"]
    assert budget["selector"]["matchLabels"] == SERVING
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_serving_is_spread_over_zones_and_nodes():
    pod = pod_templates(rendered("cpu"))["Deployment/reflux"]
    spread = pod["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    for each in spread:
        assert each["labelSelector"]["matchLabels"] == SERVING
        assert each["matchLabelKeys"] == ["pod-template-hash"]  # the pods of an update are spread by themselves
        assert each["whenUnsatisfiable"] == "ScheduleAnyway"


def test_an_update_never_takes_a_pod_away_before_another_is_ready():
    for name in ("reflux", "reflux-worker"):
        strategy = find(rendered("cpu"), "Deployment", name)["spec"]["strategy"]["rollingUpdate"]
        assert strategy["maxUnavailable"] == 0
    assert find(rendered("cpu"), "Deployment", "reflux")["spec"]["minReadySeconds"] > 0


def test_prometheus_finds_every_pod_of_reflux_and_no_other():
    documents = rendered("dev", "monitoring")
    monitor = find(documents, "PodMonitor", "reflux")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    settings = find(documents, "ConfigMap", "reflux-settings")["data"]
    (expression,) = monitor["selector"]["matchExpressions"]
    for name, template in pod_templates(documents).items():
        labels = template["metadata"]["labels"]
        found = labels[expression["key"]] in expression["values"]
        ports = {port["name"]: str(port["containerPort"]) for port in template["spec"]["containers"][0]["ports"]}
        assert ports.get(endpoint["port"]) == (settings["REFLUX_METRICS_PORT"] if found else None), name
