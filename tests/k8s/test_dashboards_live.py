"""Every panel finds data in a real Prometheus that scraped the real service, shadowed, with everything a bundle has."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import httpx
import numpy as np
import pytest

from export.bundle.anchors import ANCHORS, Anchor, anchors_jsonl
from export.bundle.cascade import load_classifier
from export.bundle.decision import DECISION, Decision
from export.bundle.format import REFERENCE, Bundle
from export.bundle.reference import Reference
from export.fit_drift import fit_drift
from k8s.monitoring.dashboards import DASHBOARDS
from k8s.monitoring.dashboards.render import ANNOTATIONS
from service.auth.keyfile import key_line
from tests.support.prometheus import Prometheus, prometheus
from tests.support.service_here import ADMIN
from tests.support.service_process import service_process
from tests.support.tiny_bundle import WORDS, build_bundle, build_cascade, build_witness, rewritten
from tests.support.waiting import PATIENCE, until

QUERIES = {
    f"{dashboard.name}: {panel.title}: {query.legend}": query.expr
    for dashboard in DASHBOARDS
    for panel in dashboard.panels
    for query in panel.queries
}
EVENTS = {name: expr for name, (expr, _text, _colour) in ANNOTATIONS.items()}
VARIABLES = {
    "$namespace": ".*",
    "$pod": ".*",
    "$model_version": ".*",
    "$window": "1h",
    "$__rate_interval": "1h",  # a quantile of the last minute is no number once the traffic is older
}
TEXTS = [
    f"{word} {second} {third}"
    for words in WORDS.values()
    for word in words
    for second in ("card", "bug", "please")
    for third in ("", "help", "anna@example.org")
]


def with_everything(student: Bundle, folder) -> Bundle:
    """Return the bundle with a reference of input drift, anchors and a decision."""
    classifier = load_classifier(student)
    answers = [classifier.classify(text) for text in TEXTS]
    reference = Reference.open(student)
    labels = student.manifest.labels
    drift = fit_drift(answers, reference, unknown=True)
    assert drift is not None
    files = {
        REFERENCE: dataclasses.replace(reference, drift=drift).to_bytes(),
        ANCHORS: anchors_jsonl(Anchor(words[0], label) for label, words in WORDS.items()),
        DECISION: Decision(
            ("front", "back", "abstain"), np.arange(len(labels)) // 2, np.array([0.7, 0.7]), 2
        ).to_bytes(),
    }
    return rewritten(student, folder, files)


async def ask(port: int, texts: Sequence[str]) -> None:
    """Classify the texts, and wait until all that were sampled are compared."""
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": ADMIN}, timeout=PATIENCE
    ) as client:
        for start in range(0, len(texts), 12):
            response = await client.post("/classify", json={"texts": texts[start : start + 12]})
            assert response.status_code == 200

        async def compared() -> bool:
            found = (await client.get("/gap")).json()
            anchors = found["drift"]["teacher"]["anchors"]
            return found["counts"]["compared"] >= len(texts) and anchors["asked"] >= anchors["count"]

        await until(compared, pause=0.1)


async def leave(port: int, texts: Sequence[str]) -> None:
    """Classify texts that are all left to the teacher."""
    address = f"http://127.0.0.1:{port}/classify"
    async with httpx.AsyncClient(headers={"x-api-key": ADMIN}, timeout=PATIENCE) as client:
        results = (await client.post(address, json={"texts": texts})).json()["results"]
    assert {result["stage"] for result in results} == {"teacher"}


async def empty(server: Prometheus, exprs: dict[str, str]) -> list[str]:
    """Return the names of the expressions without a finite value."""
    found = []
    for name, expr in exprs.items():
        for variable, value in VARIABLES.items():
            expr = expr.replace(variable, value)
        if not await server.query(expr):
            found.append(name)
    return found


async def complete(server: Prometheus, exprs: dict[str, str]) -> None:
    """Wait until every expression has a finite value; names those that have none."""
    missing: list[str] = []

    async def all_found() -> bool:
        missing[:] = await empty(server, exprs)
        return not missing

    try:
        await until(all_found, pause=1.0)
    except TimeoutError:
        assert not missing


@pytest.mark.timeout(120)
async def test_every_panel_and_every_event_has_data(tmp_path):
    better = build_bundle(tmp_path / "teacher")
    wrong = build_bundle(tmp_path / "wrong", flip={"refund": "shipping", "late": "technical"})
    student_alone = build_bundle(tmp_path / "last")
    cascade = build_cascade(tmp_path / "cascade", [wrong, student_alone], [0.7])
    student = with_everything(cascade, tmp_path / "student")
    shadow = {
        "ENABLED": "true",
        "RATE": "1",
        "PATH": str(tmp_path / "shadow.sqlite"),
        "TEACHER": json.dumps({"kind": "bundle", "path": str(better.path), "usd_per_hour": 1.0}),
        "WITNESS": str(build_witness(tmp_path / "witness", student, better).path),
        "ANCHORS_PER_DAY": str(86400 * 20),
        "USD_PER_HOUR": "100",
    }
    settings = {f"REFLUX_SHADOW__{name}": value for name, value in shadow.items()}
    keys = tmp_path / "keys"
    keys.write_text(key_line("desk", ADMIN, "admin"))
    plan = {"REFLUX_WORKERS": "1", "REFLUX_BATCH_TOKENS": "512", "REFLUX_API_KEYS": str(keys)}
    # A bundle that defers takes no witness.
    defers = build_cascade(tmp_path / "deferring", [student_alone], [], name="deferring", defer=0.99)
    taught = {"REFLUX_DEFER__TEACHER": shadow["TEACHER"]}
    async with (
        service_process(REFLUX_BUNDLE=str(student.path), **plan, **settings) as service,
        service_process(REFLUX_BUNDLE=str(defers.path), **plan, **taught) as deferring,
        prometheus(tmp_path, service.port, deferring.port) as server,
    ):
        await complete(server, EVENTS)
        await ask(service.port, TEXTS)
        await leave(deferring.port, TEXTS[:12])

        async def scraped() -> bool:
            (row, *_) = await server.query("sum(reflux_shadow_compared_total)") or [None]
            return row is not None and float(row["value"][1]) == len(TEXTS)

        await until(scraped, pause=0.2)
        await complete(server, QUERIES)
        by_stage = await server.query("sum by (stage) (reflux_cascade_answers_total)")
        assert "teacher" in {row["metric"]["stage"] for row in by_stage}
