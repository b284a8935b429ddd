"""The patches of an overlay, as kustomize reads them. They know the objects of `k8s/base` by name."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import yaml

Patch = dict[str, Any]


def replace(kind: str, name: str, path: str, value: Any, op: str = "replace") -> Patch:
    """Return the patch that puts `value` at `path` of the objects of `kind` whose names match `name`."""
    return {"target": {"kind": kind, "name": name}, "patch": _text([{"op": op, "path": path, "value": value}])}


def template(deployments: str, spec: dict[str, Any]) -> Patch:
    """Return the patch that merges `spec` into that of the pods."""
    metadata = {"name": "any"}  # the target says which
    pods = {"template": {"spec": spec}}
    document = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": pods}
    return {"target": {"kind": "Deployment", "name": deployments}, "patch": _text(document)}


def job_template(kind: str, name: str, spec: dict[str, Any]) -> Patch:
    """Return the patch that merges `spec` into that of the pods of a Job or a CronJob."""
    job = {"template": {"spec": spec}}
    inner = {"jobTemplate": {"spec": job}} if kind == "CronJob" else job
    document = {"apiVersion": "batch/v1", "kind": kind, "metadata": {"name": "any"}, "spec": inner}
    return {"target": {"kind": kind, "name": name}, "patch": _text(document)}


def mount(deployments: str, volume: str, secret: str) -> Patch:
    """Return the patch by which the `volume` of the pods is another Secret."""
    return template(deployments, secret_volume(volume, secret))


def secret_volume(volume: str, secret: str) -> dict[str, Any]:
    """Return what is merged into a pod whose `volume` is to be another Secret."""
    return {"volumes": [{"name": volume, "secret": {"secretName": secret}}]}


def delete(api: str, kind: str, name: str) -> Patch:
    """Return the patch that removes an object."""
    document = {"$patch": "delete", "apiVersion": api, "kind": kind, "metadata": {"name": name}}
    return {"target": {"kind": kind, "name": name}, "patch": _text(document)}


def namespace(name: str) -> dict[str, Any]:
    """Return the peer of a NetworkPolicy that is every pod of a namespace."""
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def egress(policy: str, url: str, ports: Mapping[str, int], default: int) -> list[Patch]:
    """Return the patches by which a policy allows the way to `url`, whose port is `ports[scheme]` if it has none.

    A name of the cluster is allowed with its namespace, on every port: a policy sees the port of the pod, which a
    Service may call otherwise. Any other name may have any address, so that only a port other than the policy's
    `default` changes it.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or ports[parts.scheme]
    labels = host.split(".")
    tcp = [{"protocol": "TCP", "port": port}]
    try:
        address = ip_address(host)
    except ValueError:
        pass
    else:
        rule = {"to": [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}], "ports": tcp}
        return [replace("NetworkPolicy", policy, "/spec/egress/0", rule)]
    if len(labels) == 1:
        return [replace("NetworkPolicy", policy, "/spec/egress/0", {"to": [{"podSelector": {}}]})]
    if labels[2:3] == ["svc"]:
        return [replace("NetworkPolicy", policy, "/spec/egress/0", {"to": [namespace(labels[1])]})]
    return [] if port == default else [replace("NetworkPolicy", policy, "/spec/egress/0/ports", tcp)]


class _Block(str):
    """A text that YAML shows as a block of lines."""


def _text(patch: Any) -> str:
    return _Block(yaml.safe_dump(patch, sort_keys=False, width=1000))


class _Dumper(yaml.SafeDumper):
    """Shows patches as blocks."""


_Dumper.add_representer(_Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))


def dump(document: Any) -> str:
    """Return a document as YAML, with patches that a person can read."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
