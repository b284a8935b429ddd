"""Every overlay renders, with every component that may be added, into objects that a cluster takes."""

import copy
import json
from functools import cache
from pathlib import Path

import jsonschema
import pytest
from referencing import Registry, Resource

from tests.support.kustomize import K8S, Document, combinations, find, pod_templates, render, rendered, rendered_text

kubernetes_validate = pytest.importorskip("kubernetes_validate")

SCHEMAS = Path(__file__).parent / "schemas"
VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
IMAGE_VOLUMES = "1.33"
"""From here on the restricted standard allows them."""


@pytest.mark.parametrize("combination", combinations(), ids="+".join)
def test_a_combination_renders_each_object_once(combination):
    documents = rendered(*combination)
    names = [(found["kind"], found["metadata"].get("namespace"), found["metadata"]["name"]) for found in documents]
    assert len(set(names)) == len(names)
    assert {namespace for kind, namespace, _ in names if kind != "Namespace"} == {"reflux"}


def test_rendering_is_deterministic():
    assert rendered_text(K8S / "overlays" / "dev") == rendered_text(K8S / "overlays" / "dev")


def test_the_base_renders_on_its_own():
    assert find(render(K8S / "base"), "Deployment", "reflux")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cluster_takes_every_object_of_its_own(version):
    checked = 0
    for document in objects():
        if _schema(document) is None and (not _mounts_an_image(document) or float(version) >= float(IMAGE_VOLUMES)):
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
    assert checked > 20


def test_an_unknown_key_is_refused():
    deployment = copy.deepcopy(find(rendered("cpu"), "Deployment", "reflux"))
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


def test_custom_resources_fit_their_schemas():
    kinds = set()
    for document in objects():
        if (schema := _schema(document)) is not None:
            schema.validate(document)
            kinds.add(document["kind"])
    assert kinds >= {"ExternalSecret", "PodMonitor", "PrometheusRule", "ScaledObject"}


def test_a_custom_resource_with_an_unknown_key_is_refused():
    seen = set()
    for document in objects():
        schema = _schema(document)
        if schema is None or document["kind"] in seen:
            continue
        seen.add(document["kind"])
        for part in ((), ("spec",), ("metadata",)):
            wrong = copy.deepcopy(document)
            inner = wrong
            for key in part:
                inner = inner[key]
            inner["unknown"] = "x"
            assert not schema.is_valid(wrong), (document["kind"], part)
    assert seen


@cache
def objects() -> list[Document]:
    """Every different object of all combinations."""
    found = {json.dumps(document, sort_keys=True): document for each in combinations() for document in rendered(*each)}
    return list(found.values())


def _schema(document: Document) -> jsonschema.Draft202012Validator | None:
    """The schema of ours for a custom resource; None for what belongs to Kubernetes itself."""
    group = document["apiVersion"].rpartition("/")[0]
    if "." not in group or group.endswith(".k8s.io"):
        return None
    schema = json.loads((SCHEMAS / f"{document['kind'].lower()}.json").read_text())
    return jsonschema.Draft202012Validator(schema, registry=_registry())


@cache
def _registry() -> Registry:
    common = json.loads((SCHEMAS / "common.json").read_text())
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | common
    return Registry().with_resource("common.json", Resource.from_contents(schema))


def _mounts_an_image(document: Document) -> bool:
    pods = (template["spec"] for template in pod_templates([document]).values())
    return any("image" in volume for pod in pods for volume in pod.get("volumes", ()))
