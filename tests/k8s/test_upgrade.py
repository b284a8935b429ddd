"""A deployment of version 0.1.0 is upgraded in place: what cannot change in a cluster, or what others name, stays."""

from pathlib import Path

import pytest
import yaml

from tests.support.kustomize import K8S, find, render, write_overlay

OLD = list(yaml.safe_load_all((Path(__file__).parent / "data" / "base-0.1.0.yaml").read_text()))
VOLUME = "/spec/template/spec/volumes/0"
BASE_NAMES = {"ConfigMap": "reflux-settings"}


def names(document):
    return document["kind"], BASE_NAMES.get(document["kind"], document["metadata"]["name"])


@pytest.fixture(scope="module")
def new():
    return render(K8S / "base")


@pytest.mark.parametrize("old", OLD, ids=lambda document: document["kind"])
def test_names_and_labels_stay(old, new):
    found = find(new, *names(old))
    assert found["apiVersion"] == old["apiVersion"]
    assert old["metadata"]["labels"].items() <= found["metadata"]["labels"].items()
    assert "namespace" not in found["metadata"]


def test_the_selectors_and_the_labels_of_pods_stay(new):
    old, found = (find(documents, "Deployment", "reflux")["spec"] for documents in (OLD, new))
    assert found["selector"] == old["selector"]
    assert found["template"]["metadata"]["labels"] == old["template"]["metadata"]["labels"]
    assert find(new, "Service", "reflux")["spec"] == find(OLD, "Service", "reflux")["spec"]


def test_the_container_its_ports_and_its_mounts_stay(new):
    (old,), (found,) = (
        find(documents, "Deployment", "reflux")["spec"]["template"]["spec"]["containers"] for documents in (OLD, new)
    )
    assert (found["name"], found["image"]) == (old["name"], old["image"])
    assert [port for port in old["ports"] if port not in found["ports"]] == []
    gone = {mount["mountPath"] for mount in old["volumeMounts"]} - {
        mount["mountPath"] for mount in found["volumeMounts"]
    }
    assert gone == {"/data"}  # the shadow's file, which was lost with its pod


def test_no_setting_of_the_map_is_gone_but_the_file_of_the_shadow(new):
    old, found = (find(documents, "ConfigMap", "reflux-settings")["data"] for documents in (OLD, new))
    assert old.keys() - found.keys() == {"REFLUX_SHADOW__PATH"}


def test_an_overlay_of_version_0_1_0_renders_with_one_more_line(tmp_path):
    write_overlay(
        tmp_path,
        "base",
        ["image-volume"],
        images=[{"name": "reflux", "newName": "registry.example/reflux", "newTag": "0.2.0"}],
        patches=[
            {
                "target": {"kind": "Deployment", "name": "reflux"},
                "patch": f"- {{op: replace, path: {VOLUME}/image/reference, value: example/bundle:1}}",
            }
        ],
        configMapGenerator=[{"name": "reflux-settings", "behavior": "merge", "literals": ["REFLUX_LOG_LEVEL=debug"]}],
    )
    pod = find(render(tmp_path), "Deployment", "reflux")["spec"]["template"]["spec"]
    assert pod["volumes"][0] == {
        "name": "bundle",
        "image": {"reference": "example/bundle:1", "pullPolicy": "IfNotPresent"},
    }
    assert pod["containers"][0]["image"] == "registry.example/reflux:0.2.0"
