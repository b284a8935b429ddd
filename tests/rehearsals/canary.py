"""Rehearse the canary: `make rehearse-canary`.

Candidates of every kind serve real traffic, a real Prometheus with the real rules scrapes them, and the queries of the
AnalysisTemplate are judged as Argo Rollouts judges them: only a good candidate may pass. `reflux canary` then asks the
same Prometheus, and promotes or rolls back by a Kubernetes API that is played here. Prometheus is needed (Debian:
`apt-get install prometheus`). Exits with 1 unless all goes as it should.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from reflux import canary as plain
from reflux.cluster import Cluster
from reflux.exit_codes import GateResult
from tests.support.argo import Phase, analyse, worst
from tests.support.fake_cluster import FakeCluster, write_account
from tests.support.http_server import serving
from tests.support.hurried_rules import impatient
from tests.support.misbehaving import Case, Trouble, breaking, fleet, ordinary, silence
from tests.support.prometheus import PROMETHEUS, Prometheus, prometheus
from tests.support.tiny_bundle import MAX_TOKENS, WORDS, build_bundle, rewritten

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "k8s" / "components" / "canary-argo" / "analysis.yaml"
PLAIN = ROOT / "k8s" / "components" / "canary-plain" / "gates.yaml"

PATIENCE = 90.0
"""Seconds within which a candidate should be judged as it deserves."""

WRONG = dict.fromkeys(WORDS["billing"], "shipping")


_PHASES = {
    GateResult.PASS: Phase.SUCCESSFUL,
    GateResult.FAIL: Phase.FAILED,
    GateResult.INCONCLUSIVE: Phase.INCONCLUSIVE,
}


class Outcome(NamedTuple):
    """What became of a candidate: the phase that it deserves, the phases of its metrics, and its worst."""

    how: str
    deserved: Phase
    found: Mapping[str, Phase]

    @property
    def right(self) -> bool:
        """Whether it was judged as it deserves."""
        return worst(self.found) is self.deserved


def candidates(folder: Path) -> dict[str, tuple[Case, Phase]]:
    """Build the candidates in `folder`, with the phase that each deserves, by the hash of their pods."""
    teacher = build_bundle(folder / "teacher", name="teacher")
    lengths = count(MAX_TOKENS)

    def case(how: str, name: str, trouble: Trouble, flip: Mapping[str, str] | None = None, **shadow: str) -> Case:
        made = build_bundle(folder / f"{name} before", name=name, flip=flip)
        bundle = rewritten(made, folder / name, max_tokens=next(lengths))  # so that its version is its own
        teaching = json.dumps({"kind": "bundle", "path": str(teacher.path), "usd_per_hour": 1e6})
        path = str(folder / f"{name}.sqlite")
        given = {"ENABLED": "true", "RATE": "1", "PATH": path, "TEACHER": teaching, "GAP_SLO": "0.1"} | shadow
        variables = {f"REFLUX_SHADOW__{key}": value for key, value in given.items()}
        variables["REFLUX_BUNDLE"] = str(bundle.path)
        return Case(name, how, frozenset(), bundle.manifest.version, variables, trouble)

    return {
        "good": (case("a gap of 2 %, SLO 10 %", "good", ordinary(), {"fee": "shipping"}), Phase.SUCCESSFUL),
        "bad": (case("takes all words of one label for another", "bad", ordinary(), WRONG), Phase.FAILED),
        "fails": (case("half of the requests break its graph", "fails", breaking(6, of=12)), Phase.FAILED),
        "idle": (case("no request reaches it", "idle", silence), Phase.INCONCLUSIVE),
        "few": (case("no text is compared", "few", ordinary(), RATE="0.000001"), Phase.INCONCLUSIVE),
        "blind": (
            case("the budget of its teacher is spent", "blind", ordinary(), USD_PER_HOUR="0.01"),
            Phase.INCONCLUSIVE,
        ),
    }


async def rehearse(folder: Path, names: Sequence[str] = ()) -> list[Outcome]:
    """Return what became of every candidate, or of those named, and of what is no candidate's fault."""
    template = yaml.safe_load(TEMPLATE.read_text())
    cases = {name: case for name, case in candidates(folder).items() if not names or name in names}
    outcomes: list[Outcome] = []
    async with fleet([case for case, _ in cases.values()]) as services:
        pods = [f"reflux-{name}-x2v4q" for name in cases]
        async with prometheus(folder, *services.ports, rules=impatient(folder), pods=pods) as server:
            services.misbehave()
            for name, (case, deserved) in cases.items():
                outcomes.append(Outcome(case.how, deserved, await _judged(template, name, server, deserved)))
                outcomes.append(Outcome(f"{case.how} (plain)", deserved, await _plain(folder, name, server)))
            outcomes += await _without_data(template, server)
            await services.calm_down()
        outcomes.append(await _without_prometheus(template, server))
        outcomes.append(
            Outcome("Prometheus is down (plain)", Phase.INCONCLUSIVE, await _plain(folder, "good", server)),
        )
    return outcomes


async def _judged(template: Mapping[str, Any], name: str, server: Prometheus, deserved: Phase) -> dict[str, Phase]:
    """Analyse until the outcome is the one deserved, because evidence takes its time; a pass of another ends it."""
    until = time.monotonic() + PATIENCE
    while True:
        found = await analyse(template, {"hash": name, "prometheus": ""}, server.values)
        if worst(found) in (deserved, Phase.SUCCESSFUL) or time.monotonic() > until:
            return found
        await asyncio.sleep(1.0)


async def _plain(folder: Path, name: str, server: Prometheus) -> dict[str, Phase]:
    """Let `reflux canary` judge the pods of a candidate. It is an error if the cluster is not as its answer says."""
    gates = [plain.Gate(gate.name, gate.query.replace("reflux-canary-", f"reflux-{name}-")) for gate in _gates()]
    fake = FakeCluster()
    write_account(folder)
    async with serving(fake.handle) as api:
        phase = await asyncio.to_thread(
            plain.run,
            Cluster(api.url, folder),
            str(server.client.base_url),
            gates,
            [1],
            ("oci://candidate", "sha256:candidate"),
            plain.Patience(count=3, interval=0.5, limit=3.0),
            lambda line: None,
        )
    promoted = all(command[2] == "oci://candidate" for command in fake.commands.values())
    as_told = fake.over and (promoted if phase is GateResult.PASS else fake.untouched)
    return {"reflux canary": _PHASES[phase] if as_told else Phase.ERROR}


def _gates() -> list[plain.Gate]:
    gates = plain.read_gates(PLAIN)
    assert all("reflux-canary-" in gate.query for gate in gates)
    return gates


async def _without_data(template: Mapping[str, Any], server: Prometheus) -> list[Outcome]:
    async def not_a_number(query: str) -> list[float]:
        return await server.values("vector(0) / 0")

    missing = await analyse(template, {"hash": "gone", "prometheus": ""}, server.values)
    nan = await analyse(template, {"hash": "good", "prometheus": ""}, not_a_number)
    return [
        Outcome("it has no pods", Phase.INCONCLUSIVE, missing),
        Outcome("Prometheus answers NaN", Phase.INCONCLUSIVE, nan),
    ]


async def _without_prometheus(template: Mapping[str, Any], server: Prometheus) -> Outcome:
    """Ask the address of a Prometheus that has ended: an error aborts the rollout, and the stable version serves."""
    async with httpx.AsyncClient(base_url=server.client.base_url) as client:
        found = await analyse(template, {"hash": "good", "prometheus": ""}, Prometheus(client).values)
    return Outcome("Prometheus is down", Phase.ERROR, found)


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a table."""
    rows = [("candidate", "deserves", "gets", "by gate")]
    for outcome in outcomes:
        gates = ", ".join(f"{name} {phase}" for name, phase in outcome.found.items())
        mark = "" if outcome.right else "  <- WRONG"
        rows.append((outcome.how, outcome.deserved, worst(outcome.found) + mark, gates))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*(row[at].ljust(widths[at]) for at in range(3)), row[3]]) for row in rows)


def main() -> None:
    """Rehearse and print."""
    if PROMETHEUS is None:
        sys.exit("there is no Prometheus to rehearse with; install Debian's package prometheus")
    with tempfile.TemporaryDirectory() as folder:
        outcomes = asyncio.run(rehearse(Path(folder)))
    print(table(outcomes))
    sys.exit(not all(outcome.right for outcome in outcomes))


if __name__ == "__main__":
    main()
