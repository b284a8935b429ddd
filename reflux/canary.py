"""`reflux canary`: start a canary, ask Prometheus about it, and promote it or end it, without Argo Rollouts.

Each gate is a query whose one value is below 0 for pass and above 0 for fail; whatever else comes back, also nothing,
is no pass. However a canary ends, its pods end with it. The queries are those of the file of gates, and judge by the
bundle's limits; nothing is judged here.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from export.delivery.address import require_digest, require_place
from reflux.cluster import Cluster
from reflux.exit_codes import GateResult

TIMEOUT_SECONDS = 30.0
STABLE = ("reflux-worker", "reflux")
"""What is promoted to, the worker first: it must be there when the first texts of the new version wait."""
CANARY = ("reflux-canary-worker", "reflux-canary")


class CanaryError(Exception):
    """A canary cannot be judged or promoted as it was asked for; the message says what to change."""


@dataclass(frozen=True)
class Gate:
    """A question to Prometheus."""

    name: str
    query: str


@dataclass(frozen=True)
class Patience:
    """How a canary is judged: `count` times in a row, `interval` seconds apart, within `limit` seconds."""

    count: int
    interval: float
    limit: float


def require_options(prometheus: str, bundle: tuple[str, str], patience: Patience) -> None:
    """Raise CanaryError or DeliveryError for what can never be judged or pulled, before anything is started.

    `bundle` is its source and its digest. Nothing is asked: neither Prometheus, the registry nor the cluster.
    """
    parts = urlsplit(prometheus)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CanaryError(f"--prometheus {prometheus}: give an address such as http://prometheus:9090")
    source, digest = bundle
    require_place(source)
    require_digest(digest)
    if patience.count * patience.interval > patience.limit:
        raise CanaryError(
            f"{patience.count} looks, {patience.interval:g} s apart, take longer than the {patience.limit:g} s of a "
            "step, so no candidate could pass; raise --hours, or lower --count or --interval"
        )


def read_gates(path: Path) -> list[Gate]:
    """Return the gates in a file. Raises CanaryError."""
    try:
        gates = [Gate(str(each["name"]), str(each["query"])) for each in yaml.safe_load(path.read_bytes())["gates"]]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise CanaryError(
            f"{path} is no file of gates ({error}); give k8s/components/canary-plain/gates.yaml"
        ) from error
    if not gates:
        raise CanaryError(f"{path} has no gates, so every candidate would pass; give those of canary-plain")
    return gates


def ask(client: httpx.Client, gate: Gate) -> GateResult:
    """Return what a gate says now. No series, several, NaN, and a Prometheus that does not answer are inconclusive."""
    try:
        body = client.get("/api/v1/query", params={"query": gate.query}).raise_for_status().json()
        (row,) = body["data"]["result"]
        value = float(row["value"][1])
    except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError):
        return GateResult.INCONCLUSIVE
    if math.isnan(value) or value == 0:
        return GateResult.INCONCLUSIVE
    return GateResult.PASS if value < 0 else GateResult.FAIL


def together(results: Sequence[GateResult]) -> GateResult:
    """Return what all gates say: a failure of one is one of all, and a pass needs every one."""
    if GateResult.FAIL in results:
        return GateResult.FAIL
    return GateResult.PASS if set(results) == {GateResult.PASS} else GateResult.INCONCLUSIVE


def judge(
    look: Callable[[], dict[str, GateResult]],
    patience: Patience,
    tell: Callable[[str], None],
    *,
    now: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> GateResult:
    """Look at the gates until they fail, pass `count` times in a row, or the time is over, which is no pass."""
    until, passes = now() + patience.limit, 0
    while True:
        wait(patience.interval)  # before the first look too: no pod has answered anything yet
        found = look()
        result = together(list(found.values()))
        tell(f"{result}: " + ", ".join(f"{name} {each}" for name, each in found.items()))
        passes = passes + 1 if result is GateResult.PASS else 0
        if result is GateResult.FAIL:
            return result
        if passes >= patience.count:
            return GateResult.PASS
        if now() + patience.interval > until:
            return GateResult.INCONCLUSIVE


def run(
    cluster: Cluster,
    prometheus: str,
    gates: Sequence[Gate],
    steps: Sequence[int],
    bundle: tuple[str, str],
    patience: Patience,
    tell: Callable[[str], None],
) -> GateResult:
    """Serve with so many pods of the canary as each step says, and promote `bundle` if all steps pass.

    `bundle` is its source and its digest. Scales the canary to 0 in the end, also when an error ends this.
    Raises CanaryError and ClusterError.
    """
    patches = {
        name: promoted(cluster.deployment(name), *bundle) for name in STABLE
    }  # so that it fails before it starts
    worker, serving = CANARY
    with httpx.Client(base_url=prometheus, timeout=TIMEOUT_SECONDS) as client:
        try:
            result = GateResult.INCONCLUSIVE
            cluster.scale(worker, 1)
            for replicas in steps:
                cluster.scale(serving, replicas)
                tell(f"{serving}: {replicas} pods")
                result = judge(lambda: {gate.name: ask(client, gate) for gate in gates}, patience, tell)
                if result is not GateResult.PASS:
                    break
            else:
                for name, patch in patches.items():
                    cluster.patch(name, patch)
                    tell(
                        f"{name}: has the candidate {bundle[1]}; write it into the overlay before you apply that again"
                    )
        finally:
            for name in (serving, worker):
                cluster.scale(name, 0)
                tell(f"{name}: 0 pods")
    return result


def promoted(deployment: dict[str, Any], source: str, digest: str) -> dict[str, Any]:
    """Return the patch that has a Deployment's container `pull` bring another bundle. Raises CanaryError.

    All else of the command stays, such as the key that signatures are verified with.
    """
    containers = deployment["spec"]["template"]["spec"].get("initContainers", ())
    commands = [each.get("command", []) for each in containers if each["name"] == "pull"]
    if len(commands) != 1 or commands[0][:2] != ["reflux", "pull"] or "--digest" not in commands[0][4:-1]:
        raise CanaryError(
            f"the Deployment {deployment['metadata']['name']} has no container `pull` with the command "
            "`reflux pull SOURCE FOLDER --digest DIGEST`; use the component canary-plain, which brings it"
        )
    command = list(commands[0])
    command[2] = source
    command[command.index("--digest") + 1] = digest
    return {"spec": {"template": {"spec": {"initContainers": [{"name": "pull", "command": command}]}}}}


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Leave by SystemExit on SIGTERM, so that the pods of a canary are ended when its Job is deleted."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
