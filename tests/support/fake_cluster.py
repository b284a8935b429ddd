"""A Kubernetes API with the Deployments of the component canary-plain: what `reflux canary` asks of it, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

NAMESPACE, TOKEN = "blue", "secret"
CANARY = ("reflux-canary", "reflux-canary-worker")
BEFORE = ["reflux", "pull", "oci://r/old", "/bundle/bundle", "--digest", "sha256:old", "--verify-key", "/k.pub"]
"""The command of the container `pull` of both stable Deployments at first."""

_PATH = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/"


def write_account(folder: Path) -> None:
    """Write the token and the namespace of a service account into `folder`, as a pod has them."""
    (folder / "namespace").write_text(NAMESPACE)
    (folder / "token").write_text(f"{TOKEN}\n")


class FakeCluster:
    """Keeps what was done to it: the replicas asked for in turn, and the commands of the stable containers `pull`.

    `refused` is a request that the Role denies, such as `PATCH reflux`.
    """

    def __init__(self, refused: str = "") -> None:
        self.replicas: dict[str, list[int]] = {name: [] for name in CANARY}
        self.commands = {"reflux": BEFORE, "reflux-worker": BEFORE}
        self._refused = refused

    @property
    def untouched(self) -> bool:
        """Whether the stable Deployments are as they were."""
        return all(command == BEFORE for command in self.commands.values())

    @property
    def over(self) -> bool:
        """Whether every Deployment of the canary has been started, and has no pods now."""
        return all(len(each) > 1 and each[-1] == 0 for each in self.replicas.values())

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer a request to the API; KeyError for what is not in the cluster."""
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert request.url.path.startswith(_PATH)
        path = request.url.path.removeprefix(_PATH)
        name, _, scale = path.partition("/")
        if f"{request.method} {path}" == self._refused:
            return httpx.Response(403, text="forbidden")
        if request.method == "GET":
            return httpx.Response(200, json=_deployment(name, self.commands[name]))
        assert request.method == "PATCH"
        body, kind = json.loads(request.content), request.headers["content-type"]
        if scale:
            assert (scale, kind) == ("scale", "application/merge-patch+json")
            self.replicas[name].append(body["spec"]["replicas"])
        else:
            assert kind == "application/strategic-merge-patch+json"
            (container,) = body["spec"]["template"]["spec"]["initContainers"]
            assert container.keys() == {"name", "command"}
            assert container["name"] == "pull"
            assert name in self.commands
            self.commands[name] = container["command"]
        return httpx.Response(200, json={})


def _deployment(name: str, command: list[str]) -> dict[str, Any]:
    containers = [{"name": "pull", "command": command}, {"name": "migrate", "command": ["reflux", "migrate"]}]
    return {"metadata": {"name": name}, "spec": {"template": {"spec": {"initContainers": containers}}}}
