"""The jobs beside serving, for redistillation, anchors and tables: what each runs, with what, and when it ends."""

import pytest

from reflux.anchors import EXIT_CODES as ANCHOR_CODES
from reflux.anchors import TeacherState
from reflux.exit_codes import GATE_EXIT_CODES, NO_ANSWER, TEACHER_CHANGED
from tests.support.kustomize import find, rendered

CRON_JOBS = ("reflux-redistill", "reflux-anchors")
DELIVERIES = ((), ("image-volume",), ("init-container",))


def cron_job(name, *delivery):
    return find(rendered("cpu", *delivery, name.removeprefix("reflux-")), "CronJob", name)["spec"]


def pod_of(name, *delivery):
    return cron_job(name, *delivery)["jobTemplate"]["spec"]["template"]["spec"]


def volumes_of(pod):
    return {volume["name"]: volume for volume in pod["volumes"]}


@pytest.mark.parametrize("name", CRON_JOBS)
def test_two_are_never_at_work_at_once_and_one_that_is_late_is_left_out(name):
    spec = cron_job(name)
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] <= 3600
    assert spec["timeZone"] == "Etc/UTC"
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] <= 6 * 3600
    assert pod_of(name)["restartPolicy"] == "Never"


@pytest.mark.parametrize("name", CRON_JOBS)
@pytest.mark.parametrize("delivery", DELIVERIES, ids="+".join)
def test_the_bundle_comes_as_it_comes_to_the_worker(name, delivery):
    worker = find(rendered("cpu", *delivery), "Deployment", "reflux-worker")["spec"]["template"]["spec"]
    pod = pod_of(name, *delivery)
    assert volumes_of(pod)["bundle"] == volumes_of(worker)["bundle"]
    pulls = [each for each in worker["initContainers"] if each["name"] != "migrate"]
    assert pod.get("initContainers", []) == pulls
    own = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert own.get("REFLUX_BUNDLE") == ("/bundle/bundle" if delivery == ("init-container",) else None)
    assert any(mount["mountPath"] == "/bundle" for mount in pod["containers"][0]["volumeMounts"])


@pytest.mark.parametrize("name", CRON_JOBS)
def test_nothing_of_a_server_is_left_in_its_pod(name):
    pod = pod_of(name)
    (container,) = pod["containers"]
    assert not {"ports", "lifecycle", "startupProbe", "readinessProbe", "livenessProbe"} & container.keys()
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == volumes_of(pod).keys()


def test_redistillation_reads_the_log_and_has_no_key_of_the_teacher():
    pod = pod_of("reflux-redistill")
    (container,) = pod["containers"]
    assert container["command"] == ["reflux", "redistill", "/distil/task.yaml", "--output", "/distil/run"]
    assert container["image"].startswith("reflux-distill:")  # serving's has no torch
    secrets = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    assert secrets == {"reflux-database", "reflux-registry"}
    assert volumes_of(pod)["work"] == {"name": "work", "persistentVolumeClaim": {"claimName": "reflux-redistill"}}
    (settings,) = container["envFrom"]  # where an overlay says CANDIDATE_TARGET
    assert settings["configMapRef"]["name"].startswith("reflux-settings")
    own = {each["name"]: each for each in container["env"]}
    assert own["OMP_NUM_THREADS"]["valueFrom"]["resourceFieldRef"]["resource"] == "requests.cpu"


def test_a_redistillation_is_tried_again_after_an_error_and_not_after_a_judgement():
    spec = cron_job("reflux-redistill")["jobTemplate"]["spec"]
    final, evicted = spec["podFailurePolicy"]["rules"]
    judged = {code for code in GATE_EXIT_CODES.values() if code} | {TEACHER_CHANGED}
    assert (final["action"], set(final["onExitCodes"]["values"])) == ("FailJob", judged)
    assert NO_ANSWER not in judged
    assert spec["backoffLimit"] == 1
    assert evicted["action"] == "Ignore"


def test_the_job_of_the_anchors_asks_once_and_fails_unless_the_teacher_is_the_same():
    spec = cron_job("reflux-anchors")["jobTemplate"]["spec"]
    assert spec["backoffLimit"] == 0
    pod = spec["template"]["spec"]
    assert pod["containers"][0]["command"] == ["reflux", "anchors"]
    assert [state for state, code in ANCHOR_CODES.items() if code == 0] == [TeacherState.SAME]
    secrets = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    assert secrets == {"reflux-teacher"}


def test_the_tables_are_made_by_a_job_and_not_by_the_worker_too():
    documents = rendered("cpu", "migrate")
    job = find(documents, "Job", "reflux-migrate")
    before = find(rendered("cpu"), "Deployment", "reflux-worker")["spec"]["template"]["spec"]
    after = find(documents, "Deployment", "reflux-worker")["spec"]["template"]["spec"]
    (instead,) = before["initContainers"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container == instead
    assert not after.get("initContainers")
    assert {key: value for key, value in after.items() if key != "initContainers"} == {
        key: value for key, value in before.items() if key != "initContainers"
    }


def test_a_job_that_has_ended_does_not_stand_in_the_way_of_the_next_version():
    job = find(rendered("cpu", "migrate"), "Job", "reflux-migrate")
    assert job["spec"]["ttlSecondsAfterFinished"] <= 600
    annotations = job["metadata"]["annotations"]
    assert annotations["argocd.argoproj.io/hook"] == "PreSync"
    assert annotations["argocd.argoproj.io/hook-delete-policy"] == "BeforeHookCreation"
    assert annotations["kustomize.toolkit.fluxcd.io/force"] == "enabled"
