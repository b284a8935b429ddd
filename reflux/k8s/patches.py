"""The patches of an overlay, as kustomize reads them. They know the objects of `k8s/base` by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def egress(policy: str, urls: Sequence[str], ports: Mapping[str, int], default: int) -> list[Patch]:
    """Return the patches by which a policy allows the ways to `urls`; one without a port has `ports[scheme]`.

    A name of the cluster is allowed with its namespace, on every port: a policy sees the port of the pod, which a
    Service may call otherwise. Any other name may have any address, so that the policy's own rule is for these, and
    only ports other than its `default` change it.
    """
    rules: list[dict[str, Any]] = []
    anywhere: list[int] = []
    for parts in map(urlsplit, urls):
        host, port = parts.hostname or "", parts.port or ports[parts.scheme]
        if (rule := _known(host, port)) is None:
            anywhere.append(port)
        elif rule not in rules:
            rules.append(rule)
    patches = []
    if not anywhere:
        patches.append(replace("NetworkPolicy", policy, "/spec/egress/0", rules.pop(0)))
    elif set(anywhere) != {default}:
        patches.append(replace("NetworkPolicy", policy, "/spec/egress/0/ports", _tcp(sorted(set(anywhere)))))
    return [*patches, *(replace("NetworkPolicy", policy, "/spec/egress/-", rule, "add") for rule in rules)]


def _known(host: str, port: int) -> dict[str, Any] | None:
    """Return the rule for a host that is an address, or in the cluster; None for one whose address is not known."""
    labels = host.split(".")
    try:
        address = ip_address(host)
    except ValueError:
        pass
    else:
        return {"to": [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}], "ports": _tcp([port])}
    if len(labels) == 1:
        return {"to": [{"podSelector": {}}]}
    return {"to": [namespace(labels[1])]} if labels[2:3] == ["svc"] else None


def _tcp(ports: Sequence[int]) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


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
