"""`reflux k8s init` writes an overlay that renders, with what it was told in the places where it belongs."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from distill.errors import DistillError
from export.delivery.signature import new_keys
from reflux.cli import app
from reflux.k8s.sources import BundleSource, read_teacher, require_database, require_image
from tests.k8s.test_network import edges
from tests.support.kustomize import K8S, find, pod_templates, render, rendered

DIGEST = "sha256:" + 64 * "a"
BUNDLE = f"oci://registry.example/tickets-bundle:4b1f@{DIGEST}"
TEACHER = '{"kind": "openai", "model": "gpt-4.1", "base_url": "https://api.openai.com/v1", "key_env": "MY_KEY"}'
DATABASE = "postgresql://reflux@db.example:5432/reflux"
GIVEN = {
    "--bundle": BUNDLE,
    "--image": "registry.example:5000/reflux:0.1.0",
    "--teacher": TEACHER,
    "--database": DATABASE,
}


def init(folder, *more, given=GIVEN, **kwargs):
    options = [part for option, value in given.items() for part in (option, value)]
    place = ["--manifests", str(K8S), "--output", str(folder)]
    return CliRunner().invoke(app, ["k8s", "init", "tickets", *options, *place, *more], **kwargs)


@pytest.fixture
def overlay(tmp_path):
    """Write an overlay with more options, and return its documents."""

    def written(*more, **changed):
        result = init(
            tmp_path / "tickets", *more, given=GIVEN | {f"--{name}": value for name, value in changed.items()}
        )
        assert result.exit_code == 0, result.output + repr(result.exception)
        return render(tmp_path / "tickets")

    return written


def volumes(documents, name):
    pod = find(documents, "Deployment", name)["spec"]["template"]["spec"]
    return {volume["name"]: volume for volume in pod["volumes"]}


def test_what_is_told_is_in_the_objects(overlay):
    documents = overlay()
    assert {found["metadata"].get("namespace", "tickets") for found in documents} == {"tickets"}
    assert find(documents, "Namespace", "tickets")
    settings = find(documents, "ConfigMap", "reflux-settings")["data"]
    assert settings["REFLUX_SHADOW__DATABASE"] == DATABASE
    assert json.loads(settings["REFLUX_SHADOW__TEACHER"]) == {
        "kind": "openai",
        "model": "gpt-4.1",
        "base_url": "https://api.openai.com/v1",
        "key_file": "/teacher/key",
    }
    for template in pod_templates(documents).values():
        assert template["spec"]["containers"][0]["image"] == "registry.example:5000/reflux:0.1.0"
        image = template["spec"]["volumes"][0]["image"]
        assert image["reference"] == f"registry.example/tickets-bundle:4b1f@{DIGEST}"


def test_it_says_how_to_apply_it_and_which_secrets_it_needs(tmp_path):
    result = init(tmp_path / "tickets", "--keys-secret", "our-keys")
    assert f"kubectl apply -k {tmp_path / 'tickets'}" in result.output
    for secret, file in (("reflux-database", "password"), ("reflux-teacher", "key"), ("our-keys", "keys")):
        assert f"kubectl --namespace tickets create secret generic {secret} --from-file={file}\n" in result.output


def test_what_is_not_told_is_asked_for(tmp_path):
    answers = "\n".join(GIVEN.values()) + "\n"
    assert init(tmp_path / "tickets", given={}, input=answers).exit_code == 0
    assert init(tmp_path / "other").exit_code == 0
    first, second = (
        yaml.safe_load((tmp_path / name / "kustomization.yaml").read_text()) for name in ("tickets", "other")
    )
    assert first == second


def test_secrets_are_named(overlay):
    documents = overlay(
        *("--keys-secret", "our-keys", "--teacher-secret", "our-teacher", "--database-secret", "our-database"),
        *("--registry-secret", "our-registry"),
    )
    serving, worker = volumes(documents, "reflux"), volumes(documents, "reflux-worker")
    for found in (serving, worker):
        assert found["keys"]["secret"] == {"secretName": "our-keys", "optional": True, "defaultMode": 0o440}
        assert found["database"]["secret"]["secretName"] == "our-database"
    assert worker["teacher"]["secret"]["secretName"] == "our-teacher"
    assert "teacher" not in serving
    assert find(documents, "ConfigMap", "reflux-settings")["data"]["REFLUX_API_KEYS"] == "/keys/keys"
    for account in ("reflux", "reflux-worker"):
        assert find(documents, "ServiceAccount", account)["imagePullSecrets"] == [{"name": "our-registry"}]


def test_a_bundle_is_pulled_and_checked_by_its_digest(overlay):
    documents = overlay("--digest", DIGEST, "--registry-secret", "our-registry", bundle="s3://models/tickets")
    settings = find(documents, "ConfigMap", "reflux-settings")
    assert settings["data"]["BUNDLE_SOURCE"] == "s3://models/tickets"
    assert settings["data"]["BUNDLE_DIGEST"] == DIGEST
    for name in ("reflux", "reflux-worker"):
        pod = find(documents, "Deployment", name)["spec"]["template"]["spec"]
        (pull,) = [container for container in pod["initContainers"] if container["name"] == "pull"]
        assert pull["command"] == [
            "reflux",
            "pull",
            "$(BUNDLE_SOURCE)",
            "/bundle/bundle",
            "--digest",
            "$(BUNDLE_DIGEST)",
        ]
        assert pull["image"] == pod["containers"][0]["image"] == "registry.example:5000/reflux:0.1.0"
        assert pull["envFrom"][0]["configMapRef"]["name"] == settings["metadata"]["name"]
        assert volumes(documents, name)["registry"]["secret"]["secretName"] == "our-registry"
        assert {"name": "REFLUX_BUNDLE", "value": "/bundle/bundle"} in pod["containers"][0]["env"]


def test_a_bundle_has_to_be_signed(overlay, tmp_path):
    public = new_keys(tmp_path / "signing").read_text()
    documents = overlay("--delivery", "init-container", "--verify-key", str(tmp_path / "signing.pub"))
    key = find(documents, "ConfigMap", "reflux-signing")
    assert key["data"] == {"key.pub": public}
    unsigned = find(rendered("cpu", "init-container"), "Deployment", "reflux")["spec"]["template"]["spec"]
    for name in ("reflux", "reflux-worker"):
        pod = find(documents, "Deployment", name)["spec"]["template"]["spec"]
        (pull,) = [container for container in pod["initContainers"] if container["name"] == "pull"]
        assert pull["command"] == [*unsigned["initContainers"][0]["command"], "--verify-key", "/signing/key.pub"]
        assert {"name": "signing", "mountPath": "/signing", "readOnly": True} in pull["volumeMounts"]
        assert {"name": "bundle", "mountPath": "/bundle"} in pull["volumeMounts"]
        assert volumes(documents, name)["signing"]["configMap"] == {"name": key["metadata"]["name"]}


def test_a_private_key_is_never_written_where_all_can_read_it(tmp_path):
    new_keys(tmp_path / "signing")
    options = ["--delivery", "init-container", "--verify-key", str(tmp_path / "signing")]
    done = init(tmp_path / "tickets", *options)
    assert done.exit_code == 1
    assert "give the public key" in str(done.exception)
    assert not (tmp_path / "tickets").exists()


def test_a_canary_has_the_same_secrets_and_takes_signed_bundles_alone(overlay, tmp_path):
    new_keys(tmp_path / "signing")
    secrets = ("--database-secret", "ours", "--registry-secret", "our-registry", "--teacher-secret", "our-teacher")
    signed = ("--delivery", "init-container", "--verify-key", str(tmp_path / "signing.pub"))
    documents = overlay("--with", "canary-plain", "--with", "monitoring", *signed, *secrets)
    plain = pod_templates(rendered("cpu", "canary-plain"))
    pods = pod_templates(documents)
    for name in ("Deployment/reflux-canary", "Deployment/reflux-canary-worker", "CronJob/reflux-promote"):
        pod = pods[name]["spec"]
        mounted = {each["name"]: each.get("secret", {}).get("secretName") for each in pod["volumes"]}
        assert (mounted["database"], mounted["registry"]) == ("ours", "our-registry"), name
        pulls = [each for each in pod["initContainers"] if each["command"][1] == "pull"]
        before = [each for each in plain[name]["spec"]["initContainers"] if each["command"][1] == "pull"]
        for pull, unsigned in zip(pulls, before, strict=True):
            assert pull["command"] == [*unsigned["command"], "--verify-key", "/signing/key.pub"], name
            assert {"name": "signing", "mountPath": "/signing", "readOnly": True} in pull["volumeMounts"], name
    assert volumes(documents, "reflux-canary-worker")["teacher"]["secret"]["secretName"] == "our-teacher"
    assert find(documents, "ServiceAccount", "reflux-promote")["imagePullSecrets"] == [{"name": "our-registry"}]


JOBS = ("redistill", "anchors", "migrate")
WITH_JOBS = [part for name in JOBS for part in ("--with", name)]
DISTILL = ("--distill-image", "registry.example:5000/reflux-distill:0.1.0")
REDISTILL = ("--with", "redistill", *DISTILL)


def job_volumes(documents):
    """Return the volumes of each Job by their names."""
    pods = pod_templates(documents)
    names = ("CronJob/reflux-redistill", "CronJob/reflux-anchors", "Job/reflux-migrate")
    return [{volume["name"]: volume for volume in pods[name]["spec"]["volumes"]} for name in names]


@pytest.mark.parametrize("bundle", [BUNDLE, "claim:tickets-bundle"])
def test_jobs_have_the_bundle_and_the_secrets_that_the_pods_have(overlay, bundle):
    secrets = ("--database-secret", "ours", "--registry-secret", "our-registry", "--teacher-secret", "our-teacher")
    target = "oci://registry.example/tickets-bundle:candidate"
    documents = overlay(*WITH_JOBS, *DISTILL, *secrets, "--candidates", target, bundle=bundle)
    worker = volumes(documents, "reflux-worker")["bundle"]
    redistill, anchors, migrate = job_volumes(documents)
    assert redistill["bundle"] == anchors["bundle"] == worker
    assert "tickets-bundle" in json.dumps(worker)
    named = [
        {name: each["secret"]["secretName"] for name, each in job.items() if "secret" in each}
        for job in (redistill, anchors, migrate)
    ]
    assert named == [{"database": "ours", "registry": "our-registry"}, {"teacher": "our-teacher"}, {"database": "ours"}]
    assert find(documents, "ConfigMap", "reflux-settings")["data"]["CANDIDATE_TARGET"] == target
    images = {name: pod["spec"]["containers"][0]["image"] for name, pod in pod_templates(documents).items()}
    assert images["CronJob/reflux-redistill"] == "registry.example:5000/reflux-distill:0.1.0"
    assert images["CronJob/reflux-anchors"] == images["Job/reflux-migrate"] == GIVEN["--image"]


@pytest.mark.parametrize("canary", [(), ("--with", "canary-plain", "--with", "monitoring")])
def test_jobs_pull_signed_bundles_alone_whatever_else_is_added(overlay, tmp_path, canary):
    new_keys(tmp_path / "signing")
    signed = ("--delivery", "init-container", "--verify-key", str(tmp_path / "signing.pub"))
    documents = overlay(*WITH_JOBS, *DISTILL, *canary, *signed, "--registry-secret", "our-registry")
    pods = pod_templates(documents)
    for name in ("CronJob/reflux-redistill", "CronJob/reflux-anchors"):
        (pull,) = pods[name]["spec"]["initContainers"]
        assert pull["command"][-2:] == ["--verify-key", "/signing/key.pub"], name
        found = {volume["name"]: volume for volume in pods[name]["spec"]["volumes"]}
        assert found["registry"]["secret"]["secretName"] == "our-registry", name
    deployments = [pod["spec"] for name, pod in pods.items() if name.startswith("Deployment/")]
    assert all(each["name"] != "migrate" for pod in deployments for each in pod["initContainers"])


def test_a_bundle_is_on_a_claim(overlay):
    documents = overlay(bundle="claim:tickets-bundle")
    assert volumes(documents, "reflux")["bundle"]["persistentVolumeClaim"]["claimName"] == "tickets-bundle"


def test_alerts_lead_to_the_page_given(overlay):
    documents = overlay("--with", "monitoring", "--runbook-url", "https://wiki.example/reflux")
    rules = [rule for group in find(documents, "PrometheusRule", "reflux")["spec"]["groups"] for rule in group["rules"]]
    urls = [rule["annotations"]["runbook_url"] for rule in rules if "alert" in rule]
    assert len(urls) > 5
    assert all(url.startswith("https://wiki.example/reflux#reflux") for url in urls)
    assert "reflux.example" not in yaml.safe_dump_all(documents)
    assert not [found for found in documents if found["metadata"]["name"] == "reflux-runbook"]


def test_namespaces_that_may_connect_are_named(overlay):
    documents = overlay("--from", "web", "--from", "batch", "--monitoring", "observability")
    found = edges(documents, pod_templates(documents)["Deployment/reflux"]["metadata"]["labels"])
    ways_in = {peer for direction, peer, _ in found if direction == "in"}
    assert ways_in == {"web/*", "batch/*", "observability/*"}


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("postgresql://reflux@10.0.0.7/reflux", {"to": [{"ipBlock": {"cidr": "10.0.0.7/32"}}], "port": 5432}),
        ("postgresql://reflux@[fd00::7]:6432/reflux", {"to": [{"ipBlock": {"cidr": "fd00::7/128"}}], "port": 6432}),
        ("postgresql://reflux@db/reflux", {"to": [{"podSelector": {}}]}),
        (
            "postgresql://reflux@db.data.svc.cluster.local/reflux",
            {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "data"}}}]},
        ),
    ],
)
def test_the_way_to_the_database_is_as_narrow_as_its_address_says(overlay, url, rule):
    (found,) = find(overlay(database=url), "NetworkPolicy", "reflux-database")["spec"]["egress"]
    assert found["to"] == rule["to"]
    assert [port["port"] for port in found.get("ports", ())] == ([rule["port"]] if "port" in rule else [])


@pytest.mark.parametrize("canary", [False, True])
def test_where_texts_are_left_to_the_teacher_the_pods_that_answer_reach_it_with_its_key(overlay, canary):
    more = ("--with", "canary-plain", "--delivery", "init-container") if canary else ()
    url = "https://teacher.example:8443/v1"
    teacher = json.dumps({"kind": "openai", "model": "m", "base_url": url, "key_env": "MY_KEY"})
    documents = overlay("--with", "deferring", "--teacher-secret", "our-teacher", *more, teacher=teacher)
    asking = ["reflux", "reflux-worker", *(["reflux-canary", "reflux-canary-worker"] if canary else [])]
    for name in asking:
        pod = find(documents, "Deployment", name)["spec"]["template"]
        secret = volumes(documents, name)["teacher"]["secret"]
        assert secret == {"secretName": "our-teacher", "optional": True, "defaultMode": 0o440}
        mounted = {"name": "teacher", "mountPath": "/teacher", "readOnly": True}
        assert mounted in pod["spec"]["containers"][0]["volumeMounts"]
        assert ("out", "0.0.0.0/0", ("TCP:8443",)) in edges(documents, pod["metadata"]["labels"])


def test_a_folder_that_the_deferring_pods_read_is_to_be_mounted_in_both(tmp_path):
    given = GIVEN | {"--teacher": '{"kind": "bundle", "path": "/teacher-bundle"}'}
    result = init(tmp_path / "tickets", "--with", "deferring", given=given)
    assert "mount a volume there in reflux and reflux-worker, and in each copy" in result.output


def test_a_teacher_in_the_cluster_is_reached_in_its_namespace(overlay):
    teacher = '{"kind": "openai", "model": "m", "base_url": "http://vllm.models.svc:8000/v1"}'
    (rule,) = find(overlay(teacher=teacher), "NetworkPolicy", "reflux-teacher")["spec"]["egress"]
    assert rule == {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "models"}}}]}


def test_a_teacher_in_the_pod_needs_no_way_out_and_no_secret(tmp_path):
    teacher = GIVEN | {"--teacher": '{"kind": "bundle", "path": "/bundle"}'}
    result = init(tmp_path / "tickets", given=teacher)
    assert "reflux-teacher" not in result.output
    names = {found["metadata"]["name"] for found in render(tmp_path / "tickets") if found["kind"] == "NetworkPolicy"}
    assert "reflux-teacher" not in names


ENSEMBLE = {
    "kind": "ensemble",
    "members": [
        {"teacher": {"kind": "openai", "model": "gpt-4.1"}, "weight": 2},
        {"teacher": {"kind": "anthropic", "model": "claude-opus-4", "key_env": "OUR_KEY"}},
        {"teacher": {"kind": "openai", "model": "gpt-4o", "key_env": "OPENAI_API_KEY"}},
        {"teacher": {"kind": "openai", "model": "qwen", "base_url": "http://vllm.models.svc:8000/v1"}},
        {"teacher": {"kind": "bundle", "path": "/bundle"}},
    ],
}


def test_members_of_an_ensemble_read_their_keys_from_the_secret(tmp_path):
    result = init(tmp_path / "tickets", given=GIVEN | {"--teacher": json.dumps(ENSEMBLE)})
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "create secret generic reflux-teacher --from-file=key-1 --from-file=key-2\n" in result.output
    readers = "key-1 is the key of openai:gpt-4.1, openai:gpt-4o; key-2 is the key of anthropic:claude-opus-4."
    assert f"In the Secret reflux-teacher, {readers}\n" in result.output
    settings = find(render(tmp_path / "tickets"), "ConfigMap", "reflux-settings")["data"]
    members = json.loads(settings["REFLUX_SHADOW__TEACHER"])["members"]
    files = [member["teacher"].get("key_file") for member in members]
    assert files == ["/teacher/key-1", "/teacher/key-2", "/teacher/key-1", None, None]
    assert "key_env" not in json.dumps(members)
    assert [member.get("weight") for member in members] == [2, None, None, None, None]


def test_an_ensemble_with_one_key_has_it_where_any_teacher_has(tmp_path):
    ensemble = ENSEMBLE | {"members": [ENSEMBLE["members"][0], ENSEMBLE["members"][2]]}
    result = init(tmp_path / "tickets", given=GIVEN | {"--teacher": json.dumps(ensemble)})
    assert "create secret generic reflux-teacher --from-file=key\n" in result.output
    assert "is the key of" not in result.output


def test_a_secret_manager_has_a_property_for_each_of_several_keys(overlay):
    documents = overlay("--with", "external-secrets", teacher=json.dumps(ENSEMBLE))
    found = find(documents, "ExternalSecret", "reflux-teacher")["spec"]["data"]
    assert found == [
        {"secretKey": file, "remoteRef": {"key": "reflux/teacher", "property": file}} for file in ("key-1", "key-2")
    ]


def test_each_member_of_an_ensemble_is_reached(overlay):
    first, second = find(overlay(teacher=json.dumps(ENSEMBLE)), "NetworkPolicy", "reflux-teacher")["spec"]["egress"]
    assert {peer["ipBlock"]["cidr"] for peer in first["to"]} == {"0.0.0.0/0", "::/0"}
    assert first["ports"] == [{"protocol": "TCP", "port": 443}]
    assert second == {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "models"}}}]}


def test_members_at_other_ports_and_in_the_cluster_alone_are_reached_too(tmp_path):
    def egress(*urls):
        members = [{"teacher": {"kind": "openai", "model": "m", "base_url": url}} for url in urls]
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        given = GIVEN | {"--teacher": json.dumps({"kind": "ensemble", "members": members})}
        assert init(folder, given=given).exit_code == 0
        return find(render(folder), "NetworkPolicy", "reflux-teacher")["spec"]["egress"]

    (rule,) = egress("https://one.example/v1", "https://two.example:8443/v1")
    assert [port["port"] for port in rule["ports"]] == [443, 8443]
    (rule,) = egress("http://one.models.svc/v1", "http://two.models.svc/v1")
    assert "ports" not in rule
    rules = egress("http://one.models.svc/v1", "http://10.1.2.3:8000/v1")
    assert [[*rule] for rule in rules] == [["to"], ["ports", "to"]]


def test_a_teacher_that_gets_no_key_needs_no_secret(tmp_path):
    teacher = '{"kind": "openai", "model": "m", "base_url": "http://vllm.models.svc:8000/v1"}'
    result = init(tmp_path / "tickets", given=GIVEN | {"--teacher": teacher})
    assert "reflux-teacher" not in result.output
    settings = find(render(tmp_path / "tickets"), "ConfigMap", "reflux-settings")["data"]
    assert json.loads(settings["REFLUX_SHADOW__TEACHER"]) == json.loads(teacher)


def test_a_teacher_is_read_from_a_task_file(tmp_path):
    task = tmp_path / "task.yaml"
    task.write_text("name: tickets\nteacher: {kind: anthropic, model: claude-opus-4}\n")
    assert read_teacher(str(task)) == {"kind": "anthropic", "model": "claude-opus-4", "key_file": "/teacher/key"}


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ('{"kind": "bundle", "path": "runs/one/bundles/teacher"}', "no pod has runs/one/bundles/teacher"),
        (
            '{"kind": "recorded", "logits": "a.npz", "recordings": [{"array": "a", "rows": {"path": "b.csv"}}]}',
            "no pod",
        ),
        ('{"kind": "causal", "model": "Qwen/Qwen3-8B"}', 'vLLM, say, and write {"kind": "openai"'),
        ('{"kind": "causal", "model": "/models/judge"}', "kind causal runs a model with torch"),
        ('{"kind": "local", "model": "our/teacher"}', "RUN/bundles/teacher"),
        (
            '{"kind": "ensemble", "members": [{"teacher": {"kind": "openai", "model": "m"}},'
            ' {"teacher": {"kind": "local", "model": "our/teacher"}}]}',
            "kind local runs a model with torch",
        ),
        (
            '{"kind": "ensemble", "members": [{"teacher": {"kind": "bundle", "path": "/bundle"}},'
            ' {"teacher": {"kind": "bundle", "path": "there"}}]}',
            "no pod has there",
        ),
        (
            '{"kind": "local", "model": "m", "fit": {"data": {"path": "a.csv", "label": "label"}}}',
            "RUN/bundles/teacher",
        ),
    ],
)
def test_a_teacher_that_no_pod_can_have_is_refused(tmp_path, teacher, message):
    done = init(tmp_path / "tickets", given=GIVEN | {"--teacher": teacher})
    assert done.exit_code == 1
    assert message in str(done.exception)
    assert not (tmp_path / "tickets").exists()


def test_what_has_to_be_mounted_is_said(tmp_path):
    given = GIVEN | {"--teacher": '{"kind": "bundle", "path": "/teacher-bundle"}'}
    result = init(tmp_path / "tickets", given=given)
    assert result.exit_code == 0, result.output
    assert "Its teacher reads /teacher-bundle, which no pod has by itself: mount a volume there" in result.output
    inside = init(tmp_path / "inside", given=GIVEN | {"--teacher": '{"kind": "bundle", "path": "/bundle"}'})
    assert "which no pod has" not in inside.output


def test_redistilling_names_its_claim_and_the_login_of_the_registry(tmp_path):
    result = init(tmp_path / "tickets", *REDISTILL, "--candidates", "oci://registry.example/tickets:next")
    assert result.exit_code == 0, result.output
    assert "needs the claim reflux-redistill with /distil/task.yaml" in result.output
    assert "create secret generic reflux-registry --type=kubernetes.io/dockerconfigjson" in result.output
    plain = init(tmp_path / "plain")
    assert "reflux-redistill" not in plain.output
    assert "reflux-registry" not in plain.output


@pytest.mark.parametrize("target", ["nonsense", "/srv/candidates", "oci://registry.example/Tickets", "", "file:///a"])
def test_candidates_are_pushed_where_a_pod_can_push(tmp_path, target):
    done = init(tmp_path / "tickets", *REDISTILL, "--candidates", target)
    assert done.exit_code == 1
    assert "--candidates " in str(done.exception)
    assert not (tmp_path / "tickets").exists()
    assert init(tmp_path / "tickets", *REDISTILL, "--candidates", "/distil/candidates").exit_code == 0


def test_keda_counts_in_the_namespace(overlay):
    query = find(overlay("--with", "keda"), "ScaledObject", "reflux")["spec"]["triggers"][1]["metadata"]["query"]
    assert query == 'sum(reflux_inference_inflight{namespace="tickets"})'


def test_a_gpu_is_asked_for(overlay):
    (container,) = find(overlay("--device", "gpu"), "Deployment", "reflux")["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_an_overlay_is_never_overwritten(tmp_path):
    init(tmp_path / "tickets")
    before = (tmp_path / "tickets" / "kustomization.yaml").read_text()
    result = init(tmp_path / "tickets", "--device", "gpu")
    assert isinstance(result.exception, DistillError)
    assert "exists" in str(result.exception)
    assert (tmp_path / "tickets" / "kustomization.yaml").read_text() == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--bundle": "oci://registry.example/tickets:1"}, "by its digest"),
        ({"--bundle": "registry.example/tickets"}, "give oci://"),
        ({"--bundle": f"oci://Registry/Tickets@{DIGEST}"}, "the repository in lower case"),
        ({"--digest": "sha256:" + 64 * "b"}, "leave one of the two out"),
        ({"--image": "registry.example/reflux"}, "NAME:TAG"),
        ({"--image": "registry.example/Reflux:0.1.0"}, "in lower case"),
        ({"--image": "https://registry.example/reflux:0.1.0"}, "NAME:TAG"),
        ({"--image": "registry.example/reflux@sha256:12"}, "NAME@sha256"),
        ({"--bundle": "claim:No"}, "lower-case letters"),
        ({"--teacher": '{"kind": "openai"}'}, "model: Field required"),
        ({"--teacher": '{"kind": "nobody"}'}, "--teacher: kind: expected one of"),
        ({"--teacher": "{"}, "neither JSON nor YAML"),
        ({"--teacher": "[]"}, "neither JSON nor YAML|No such file"),
        ({"--database": "mysql://u@h/d"}, "postgresql://"),
        ({"--database": "postgresql://u:secret@h/d"}, "leave the password out"),
        ({"--database": "postgresql://u@h:x/d"}, "postgresql://"),
        ({"--database": "postgresql://h/d"}, "postgresql://"),
        ({"--namespace": "A B"}, "--namespace"),
        ({"--with": "canary-magic"}, "no such component"),
        ({"--runbook-url": "https://wiki.example"}, "--with monitoring"),
        ({"--runbook-url": "wiki.example", "--with": "monitoring"}, "such as https://wiki.example/reflux"),
        ({"--runbook-url": "https://wiki.example:x/", "--with": "monitoring"}, "such as https://wiki.example/reflux"),
        ({"--runbook-url": "https://wiki.example/a#b", "--with": "monitoring"}, "each alert adds its own section"),
        ({"--with": "image-volume", "--delivery": "init-container"}, "give --delivery image-volume"),
        ({"--with": "init-container"}, "give --delivery init-container"),
        ({"--with": "gpu", "--device": "gpu"}, "the overlay gpu has it already"),
        ({"--with": "inflight", "--device": "gpu"}, "inflight and gpu: both scale"),
        ({"--manifests": "/nowhere"}, "checkout"),
        ({"--verify-key": "/nowhere"}, "--delivery init-container"),
        ({"--with": "canary-plain"}, "--delivery init-container"),
        ({"--with": "redistill"}, "--distill-image"),
        ({"--with": "redistill", "--distill-image": "Reflux"}, "--distill-image 'Reflux': give"),
        ({"--candidates": "oci://registry.example/tickets"}, "are of --with redistill"),
        ({"--verify-key": "/nowhere", "--delivery": "init-container"}, "No such file"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path, changed, message):
    result = init(tmp_path / "tickets", *[part for pair in changed.items() for part in pair])
    assert result.exit_code == 1
    assert any(part in str(result.exception) for part in message.split("|"))
    assert "secret@" not in str(result.exception)
    assert not (tmp_path / "tickets").exists()


@pytest.mark.parametrize(
    ("one", "other"), [("canary-argo", "canary-plain"), ("inflight", "keda"), ("external-secrets", "postgres-dev")]
)
def test_components_that_exclude_each_other_are_refused(tmp_path, one, other):
    result = init(tmp_path / "tickets", "--delivery", "init-container", "--with", other, "--with", one)
    assert result.exit_code == 1
    assert "leave one out" in str(result.exception)
    assert not (tmp_path / "tickets").exists()


@pytest.mark.parametrize(
    "image",
    ["reflux:1", "localhost:5000/a/b-c:1", f"registry.example/reflux@{DIGEST}", f"ghcr.io/o/reflux:0.1.0@{DIGEST}"],
)
def test_an_image_has_a_tag_a_digest_or_both(image):
    assert require_image(image) == image


def test_only_a_registry_has_images():
    with pytest.raises(DistillError, match="only a registry"):
        BundleSource.parse(f"s3://models/tickets@{DIGEST}", None, "image-volume")
    assert BundleSource.parse(BUNDLE, None, "init-container").reference == "oci://registry.example/tickets-bundle:4b1f"


def test_any_postgresql_address_is_taken():
    assert require_database("postgres://u@h/d?sslmode=require") == "postgres://u@h/d?sslmode=require"
