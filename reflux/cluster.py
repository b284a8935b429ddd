"""The three calls of the Kubernetes API that a canary needs, with the token of the pod. Not a client of Kubernetes."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import httpx

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 5


class ClusterError(Exception):
    """The Kubernetes API refuses or does not answer; the message says what was asked."""


class Cluster:
    """The Deployments of the pod's own namespace, by the API at `url`.

    `account` is the folder of the pod's token, namespace and ca.crt. Every method raises ClusterError.
    """

    def __init__(self, url: str, account: Path) -> None:
        try:
            namespace = (account / "namespace").read_text().strip()
            authority = account / "ca.crt"
            trusted = ssl.create_default_context(cafile=authority) if url.startswith("https:") else False
        except OSError as error:
            raise ClusterError(f"{error}; run this in a pod that has its service account's token") from error
        self._token = account / "token"
        retrying = httpx.HTTPTransport(verify=trusted, retries=ATTEMPTS)  # of connections that fail
        self._client = httpx.Client(base_url=url, transport=retrying, timeout=TIMEOUT_SECONDS)
        self._deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments"

    def deployment(self, name: str) -> dict[str, Any]:
        """Return a Deployment."""
        return self._send("GET", f"/{name}", None, "")

    def patch(self, name: str, patch: dict[str, Any]) -> None:
        """Change a Deployment by a strategic merge patch, which knows containers by their names."""
        self._send("PATCH", f"/{name}", patch, "application/strategic-merge-patch+json")

    def scale(self, name: str, replicas: int) -> None:
        """Have a Deployment run so many pods."""
        self._send("PATCH", f"/{name}/scale", {"spec": {"replicas": replicas}}, "application/merge-patch+json")

    def _send(self, method: str, path: str, body: dict[str, Any] | None, kind: str) -> dict[str, Any]:
        what = f"{method} {self._deployments}{path}"
        try:
            headers = {"authorization": f"Bearer {self._token.read_text().strip()}"}  # kubelet renews it
            if body is not None:
                headers["content-type"] = kind
            content = None if body is None else json.dumps(body)
            response = self._client.request(method, self._deployments + path, content=content, headers=headers)
            response.raise_for_status()
            found = response.json()
        except httpx.HTTPStatusError as error:
            answer = error.response
            raise ClusterError(
                f"{what}: {answer.status_code} {answer.text[:300]}; see the Role reflux-promote"
            ) from error
        except (OSError, httpx.HTTPError, ValueError) as error:
            raise ClusterError(f"{what}: {error or type(error).__name__}") from error
        if not isinstance(found, dict):
            raise ClusterError(f"{what}: the answer is no object")
        return found
