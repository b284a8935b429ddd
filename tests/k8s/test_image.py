"""What the Dockerfile promises, read from its text. `make rehearse-image` builds it and holds it to the rest."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HADOLINT = Path(sys.executable).with_name("hadolint")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """Return the steps, with their lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(step[0], " ".join(step[1].split())) for step in steps]


def last_stage() -> list[tuple[str, str]]:
    """Return the steps after the last FROM."""
    steps = instructions()
    start = max(index for index, (name, _) in enumerate(steps) if name == "FROM")
    return steps[start + 1 :]


def test_every_stage_stands_on_the_one_base_which_is_pinned_by_digest():
    stages = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    assert stages == ["${BASE_IMAGE}", "${BASE_IMAGE}"]
    (base,) = [rest for name, rest in instructions() if name == "ARG" and rest.startswith("BASE_IMAGE")]
    assert re.fullmatch(r"BASE_IMAGE=python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)


def test_nothing_is_installed_in_the_stage_that_is_shipped():
    runs = " ".join(rest for name, rest in last_stage() if name == "RUN")
    assert not re.search(r"\b(apt-get|apk|curl|wget|pip install)\b", runs)
    assert [rest for name, rest in last_stage() if name in ("COPY", "ADD")] == ["--from=build /opt/reflux /opt/reflux"]


def test_it_runs_as_user_10001_and_writes_to_data_alone():
    steps = last_stage()
    assert [rest for name, rest in steps if name == "USER"] == ["10001:10001"]
    assert [name for name, _ in steps].index("USER") > max(i for i, (name, _) in enumerate(steps) if name == "RUN")
    assert [rest for name, rest in steps if name == "VOLUME"] == ["/data"]


def test_the_pods_run_as_the_same_user_on_a_read_only_root():
    documents = yaml.safe_load_all((ROOT / "k8s/base/serving.yaml").read_text())
    (pod,) = [one["spec"]["template"]["spec"] for one in documents if one["kind"] == "Deployment"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in pod["containers"])


def test_its_labels_say_which_version_it_is():
    (labels,) = [rest for name, rest in last_stage() if name == "LABEL"]
    found = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', labels))
    assert found.keys() == {"title", "description", "licenses", "version", "revision", "source"}
    assert (found["title"], found["licenses"]) == (PROJECT["name"], PROJECT["license"])
    assert ("ARG", f"VERSION={PROJECT['version']}") in last_stage()
    declared = {rest.partition("=")[0] for name, rest in last_stage() if name == "ARG"}
    assert set(re.findall(r"\$\{(\w+)\}", labels)) <= declared  # an undeclared one is an empty label


def test_versions_are_those_of_the_constraints():
    (install,) = [rest for name, rest in instructions() if name == "RUN" and "${RUNTIME}" in rest]
    assert "--constraint constraints.txt" in install
    assert "pip uninstall --yes pip" in install
    assert '".[${RUNTIME},postgres]"' in install


def test_the_image_for_gpus_has_cuda_and_cudnn_in_one_version_and_the_driver_where_a_gpu_is_given():
    (gpu,) = PROJECT["optional-dependencies"]["gpu"]
    assert gpu.startswith("onnxruntime-gpu[cuda,cudnn]")
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    needed = {"nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13", "nvidia-cufft"}
    assert needed | {"nvidia-curand", "nvidia-nvjitlink", "onnxruntime-gpu"} <= pinned
    (variables,) = [rest for name, rest in last_stage() if name == "ENV"]
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in variables
    assert "NVIDIA_VISIBLE_DEVICES" not in variables  # whoever starts a container says which GPUs it sees


def test_the_pip_of_the_base_goes_before_anything_is_copied():
    name, rest = next(step for step in last_stage() if step[0] in ("RUN", "COPY"))
    assert name == "RUN"
    removed = next(part for part in rest.split(" && ") if part.startswith("rm -rf")).split()
    assert {"/usr/local/bin/pip*", "/usr/local/lib/python3*/site-packages/*"} <= set(removed)
    assert "/usr/local/lib/python3*/ensurepip" in removed


def test_a_bill_of_materials_is_written_before_pip_goes():
    (install,) = [rest for name, rest in instructions() if name == "RUN" and "${RUNTIME}" in rest]
    assert 0 < install.index("cyclonedx-py environment /opt/reflux/bin/python") < install.index("pip uninstall")
    assert re.search(r"--output-file /opt/reflux/\S+\.cdx\.json", install)


def test_all_that_it_copies_is_in_the_context_of_the_build():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied <= allowed
    assert copied >= {"constraints.txt", "distill", "export", "reflux", "service"}


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed")
def test_hadolint_has_no_complaint():
    done = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
