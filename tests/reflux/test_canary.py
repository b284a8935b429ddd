"""`reflux canary` against a Prometheus and a Kubernetes API that a test plays over HTTP."""

import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest
import yaml

from reflux.canary import CanaryError, Patience, promoted, read_gates, run, together
from reflux.cluster import Cluster, ClusterError
from reflux.exit_codes import GATE_EXIT_CODES, GateResult
from tests.support.fake_cluster import BEFORE, FakeCluster, write_account
from tests.support.http_server import serving
from tests.support.kustomize import K8S, find, rendered
from tests.support.waiting import until

GATES = K8S / "components" / "canary-plain" / "gates.yaml"
NAMES = [gate["name"] for gate in yaml.safe_load(GATES.read_text())["gates"]]
PASSES, FAILS = ["-1"], ["1"]
DIGEST = f"sha256:{'1' * 64}"
AFTER = ["reflux", "pull", "oci://r/new", "/bundle/bundle", "--digest", DIGEST, "--verify-key", "/k.pub"]


class World(FakeCluster):
    """A cluster, and a Prometheus that answers each gate by `answers`, with `default` for the others."""

    def __init__(
        self,
        answers: Mapping[str, list[str]] = MappingProxyType({}),
        default: Sequence[str] = PASSES,
        status: int = 200,
        refused: str = "",
    ) -> None:
        super().__init__(refused=refused)
        self.looks = 0
        self._gates = {gate.query: gate.name for gate in read_gates(GATES)}
        self._answers, self._default, self._status = answers, default, status

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer a request to either."""
        if request.url.path != "/api/v1/query":
            return super().handle(request)
        self.looks += 1
        values = self._answers.get(self._gates[request.url.params["query"]], self._default)
        rows = [{"metric": {}, "value": [0, value]} for value in values]
        return httpx.Response(self._status, json={"status": "success", "data": {"result": rows}})


async def start(url: str, folder: Path, *options: str) -> asyncio.subprocess.Process:
    """Start `reflux canary` with the service account in `folder`."""
    write_account(folder)
    given = {
        "--prometheus": url,
        "--gates": str(GATES),
        "--source": "oci://r/new",
        "--digest": DIGEST,
        "--kubernetes": url,
        "--account": str(folder),
        "--interval": "0.01",
        "--hours": "0.00003",  # a tenth of a second
    }
    arguments = [part for pair in given.items() for part in pair]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reflux", "canary", "--replicas", "1", *arguments, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def canary(world: World, folder: Path, *options: str) -> tuple[int | None, str]:
    """Run `reflux canary` in a world; its exit code and what it printed."""
    async with serving(world.handle) as server:
        process = await start(server.url, folder, *options)
        told, _ = await process.communicate()
    return process.returncode, told.decode()


async def judged(world: World, folder: Path, prometheus: str = "") -> GateResult:
    """Do the same within this process, for a tenth of a second."""
    write_account(folder)
    async with serving(world.handle) as server:
        return await asyncio.to_thread(
            run,
            Cluster(server.url, folder),
            prometheus or server.url,
            read_gates(GATES),
            [1],
            ("oci://r/new", DIGEST),
            Patience(count=3, interval=0.01, limit=0.1),
            lambda line: None,
        )


async def test_a_candidate_that_passes_every_gate_of_every_step_is_promoted(tmp_path):
    world = World()
    code, told = await canary(world, tmp_path, "--replicas", "4", "--hours", "1")
    assert code == 0, told
    assert world.commands == {"reflux": AFTER, "reflux-worker": AFTER}
    assert world.replicas == {"reflux-canary": [1, 4, 0], "reflux-canary-worker": [1, 0]}
    assert world.looks == 2 * 3 * len(NAMES)


async def test_a_candidate_that_fails_a_gate_is_rolled_back(tmp_path):
    world = World({NAMES[0]: FAILS})
    code, told = await canary(world, tmp_path, "--hours", "1")
    assert code == 2, told
    assert f"{NAMES[0]} fail" in told
    assert world.untouched
    assert world.over


async def test_a_candidate_of_whom_nothing_is_known_in_time_is_rolled_back(tmp_path):
    world = World(default=[])
    code, told = await canary(world, tmp_path)
    assert code == 3, told
    assert world.untouched
    assert world.over


@pytest.mark.parametrize("gate", NAMES)
async def test_one_failure_is_enough_and_one_pass_that_is_missing_too(gate, tmp_path):
    for values, phase in ((FAILS, GateResult.FAIL), ([], GateResult.INCONCLUSIVE)):
        world = World({gate: values})
        assert await judged(world, tmp_path) is phase
        assert world.untouched
        assert world.over


@pytest.mark.parametrize("values", [["NaN"], ["0"], ["-1", "-1"], ["no number"]], ids=str)
async def test_what_is_not_known_is_no_pass(values, tmp_path):
    world = World({NAMES[0]: values})
    assert await judged(world, tmp_path) is GateResult.INCONCLUSIVE
    assert world.untouched
    assert world.over


@pytest.mark.parametrize(("status", "prometheus"), [(503, ""), (200, "http://127.0.0.1:1")])
async def test_a_prometheus_with_errors_or_none_is_no_pass(status, prometheus, tmp_path):
    world = World(status=status)
    assert await judged(world, tmp_path, prometheus) is GateResult.INCONCLUSIVE
    assert world.untouched
    assert world.over


async def test_a_canary_that_is_told_to_end_takes_its_pods_with_it(tmp_path):
    world = World(default=[])
    async with serving(world.handle) as server:
        process = await start(server.url, tmp_path, "--hours", "1")
        await until(lambda: world.looks > 0)
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert world.untouched
    assert world.over


async def test_a_refusal_of_the_cluster_says_what_was_refused_and_leaves_no_pods(tmp_path):
    world = World(refused="PATCH reflux")
    code, told = await canary(world, tmp_path, "--hours", "1")
    assert code == 4
    assert "PATCH /apis/apps/v1/namespaces/blue/deployments/reflux: 403 forbidden" in told
    assert world.commands["reflux"] == BEFORE
    assert world.over


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--prometheus", "prometheus:9090", "give an address such as"),
        ("--source", "oci://r/New", "no address in a registry"),
        ("--digest", "sha256:new", "no digest"),
        ("--gates", "/nowhere", "is no file of gates"),
        ("--interval", "60", "no candidate could pass"),
    ],
)
async def test_a_wrong_option_is_told_before_the_cluster_is_asked(tmp_path, option, value, message):
    world = World()
    asked = []
    async with serving(lambda request: asked.append(request) or world.handle(request)) as server:
        process = await start(server.url, tmp_path, option, value)
        told, _ = await process.communicate()
    assert process.returncode == 4
    assert message in told.decode()
    assert asked == []


def test_without_a_token_or_gates_nothing_can_begin(tmp_path):
    (tmp_path / "none.yaml").write_text("gates: []")
    with pytest.raises(CanaryError, match="every candidate would pass"):
        read_gates(tmp_path / "none.yaml")
    with pytest.raises(ClusterError, match="service account's token"):
        Cluster("http://127.0.0.1:1", tmp_path / "nowhere")


async def test_a_deployment_whose_bundle_is_not_pulled_is_refused_before_anything_starts(tmp_path):
    world = World()
    world.commands["reflux"] = ["cp", "a", "b"]
    with pytest.raises(CanaryError, match="component canary-plain"):
        await judged(world, tmp_path)
    assert not any(world.replicas.values())


def test_only_all_passes_are_a_pass_and_one_failure_is_a_failure():
    unsure = GateResult.INCONCLUSIVE
    assert together([GateResult.PASS, GateResult.PASS]) is GateResult.PASS
    assert together([GateResult.PASS, unsure]) is unsure
    assert together([unsure, GateResult.FAIL, GateResult.PASS]) is GateResult.FAIL
    assert together([]) is unsure
    assert GATE_EXIT_CODES[unsure] == 3


def test_a_file_of_gates_that_is_none_is_refused(tmp_path):
    (tmp_path / "gates.yaml").write_text("- name: gap")
    with pytest.raises(CanaryError, match="is no file of gates"):
        read_gates(tmp_path / "gates.yaml")


def test_the_deployments_of_the_component_can_be_promoted_to():
    documents = rendered("cpu", "canary-plain")
    for name in ("reflux", "reflux-worker"):
        patch = promoted(find(documents, "Deployment", name), "oci://r/new", DIGEST)
        (container,) = patch["spec"]["template"]["spec"]["initContainers"]
        assert container["command"] == AFTER[:6]
