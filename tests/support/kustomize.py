"""Renders kustomizations as a cluster would get them, with the kubectl of the environment or of the machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from reflux.k8s.components import INSIDE, clash

K8S = Path(__file__).parents[2] / "k8s"
Document = dict[str, Any]

_OLDEST = 5
"""The major version of kustomize that knows what the manifests use; the kubectl of Debian 12 has version 2."""


OVERLAYS = ("cpu", "gpu", "dev")


def combinations() -> list[tuple[str, ...]]:
    """Return every overlay alone, with each component that may be added, and with as many as may be together."""
    components = sorted(path.parent.name for path in K8S.glob("components/*/kustomization.yaml"))
    found: list[tuple[str, ...]] = []
    for overlay in OVERLAYS:
        inside = INSIDE[overlay]
        found += [(overlay,), *((overlay, name) for name in components if _fits(name, inside))]
        for order in (components, components[::-1]):  # of two that exclude each other, each once
            together: list[str] = []
            for name in order:
                together += [name] if _fits(name, {*inside, *together}) else []
            found.append((overlay, *together))
    return list(dict.fromkeys(found))


def _fits(component: str, others: frozenset[str] | set[str]) -> bool:
    return component not in others and clash(component, others) is None


def render(folder: Path) -> list[Document]:
    """Return the documents of the kustomization in `folder`. Skips the test where no kubectl with kustomize 5 is.

    Fails the test with kubectl's message when the folder does not render.
    """
    return list(yaml.load_all(rendered_text(folder), Loader=_LOADER))


def rendered_text(folder: Path) -> str:
    """Return the same as the text that `kubectl apply` gets."""
    done = subprocess.run([_kubectl(), "kustomize", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"kubectl kustomize {folder}: {done.stderr.strip()}", pytrace=False)
    assert not done.stderr, done.stderr  # a field that is deprecated
    return done.stdout


@cache
def rendered(overlay: str, *components: str) -> Sequence[Document]:
    """Return the documents of an overlay of the repository with further components. They are shared: change none."""
    with tempfile.TemporaryDirectory() as folder:
        write_overlay(Path(folder), overlay, components)
        return tuple(render(Path(folder)))


def write_overlay(folder: Path, overlay: str, components: Iterable[str] = (), **more: Any) -> None:
    """Write into `folder` a kustomization on top of `k8s/overlays/OVERLAY`, or of `k8s/base` for `base`."""
    below = K8S / overlay if overlay == "base" else K8S / "overlays" / overlay
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "reflux",
        "resources": [_relative(below, folder)],
        "components": [_relative(K8S / "components" / name, folder) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document | more))


def find(documents: Iterable[Document], kind: str, name: str) -> Document:
    """Return the one document of a kind and a name. A generated name is found without its hash."""
    hashed = re.compile(rf"{re.escape(name)}(-[a-z0-9]{{10}})?" if kind in ("ConfigMap", "Secret") else re.escape(name))
    (found,) = [
        document
        for document in documents
        if document["kind"] == kind and hashed.fullmatch(document["metadata"]["name"])
    ]
    return found


def pod_templates(documents: Iterable[Document]) -> dict[str, Document]:
    """Return the template of every pod by `KIND/NAME` of what makes it, also those of jobs and rollouts."""
    found = {}
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec and "spec" in spec["template"]:
            found[f"{document['kind']}/{document['metadata']['name']}"] = spec["template"]
    return found


def _relative(path: Path, folder: Path) -> str:
    """Return `path` as kustomize wants it: it takes no absolute ones."""
    return os.path.relpath(path.resolve(), folder.resolve())


@cache
def _kubectl() -> str:
    for place in (str(Path(sys.executable).parent), None):
        program = shutil.which("kubectl", path=place)
        if program is None:
            continue
        told = subprocess.run([program, "version", "--client", "--output=json"], capture_output=True, text=True).stdout
        version = json.loads(told).get("kustomizeVersion", "v0") if told else "v0"
        if int(version.removeprefix("v").split(".")[0]) >= _OLDEST:
            return program
    pytest.skip("there is no kubectl with kustomize 5 or later to render the manifests")


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C where it is: the dashboards are long."""
