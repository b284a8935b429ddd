"""A real Prometheus runs the rules on real services, three of which misbehave, each in its way.

Alerts do not wait here. `make rehearse-alerts` provokes every alert, and lets it wait.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import yaml

from tests.support.hurried_rules import impatient
from tests.support.misbehaving import firing
from tests.support.prometheus import prometheus
from tests.support.promtool import RULES
from tests.support.service_process import service_process
from tests.support.tiny_bundle import WORDS, build_bundle
from tests.support.waiting import until

TEXTS = [f"{word} {other}" for words in WORDS.values() for word in words for other in words][::3]
"""Too few for a test of input drift, which these would fail, and enough to judge losses and coverage."""

WITHOUT_DATA = {
    "model:reflux_gap_constants:changed",  # by another deployment alone
    *("model:reflux_teacher:drift", "model:reflux_teacher:log_evalue"),  # with anchors alone
    "model_feature:reflux_drift:excess",  # after 200 requests
}


async def gap_after(port: int, compared: int) -> Any:
    """Classify the texts, and return the gap once so many are compared."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for start in range(0, len(TEXTS), 40):
            response = await client.post("/classify", json={"texts": TEXTS[start : start + 40]})
            assert response.status_code == 200
        found: dict[str, Any] = {}

        async def enough() -> bool:
            found.update((await client.get("/gap")).json())
            return found["counts"]["compared"] >= compared

        await until(enough, pause=0.1)
        return found


@pytest.mark.timeout(120)
async def test_each_service_is_told_of_its_own_trouble_alone(tmp_path):
    teacher = build_bundle(tmp_path / "teacher", name="teacher")
    right = build_bundle(tmp_path / "right")
    wrong = build_bundle(tmp_path / "wrong", flip=dict.fromkeys(WORDS["billing"], "shipping"))
    alone = build_bundle(tmp_path / "alone", flip={"fee": "shipping"})
    poor = build_bundle(tmp_path / "poor", flip={"tax": "shipping"})

    def shadowed(name: str, **more: str) -> dict[str, str]:
        teaching = json.dumps({"kind": "bundle", "path": str(teacher.path), "usd_per_hour": 1e6})
        path = str(tmp_path / f"{name}.sqlite")
        shadow = {"ENABLED": "true", "RATE": "1", "PATH": path, "TEACHER": teaching, "GAP_SLO": "0.1", **more}
        return {f"REFLUX_SHADOW__{key}": value for key, value in shadow.items()}

    plan = {"REFLUX_WORKERS": "1", "REFLUX_BATCH_TOKENS": "512"}
    async with (
        AsyncExitStack() as stack,
        service_process(REFLUX_BUNDLE=str(right.path), **plan, **shadowed("right")) as calm,
        service_process(REFLUX_BUNDLE=str(wrong.path), **plan, **shadowed("wrong")) as bad,
        service_process(REFLUX_BUNDLE=str(alone.path), **plan) as unmeasured,
        service_process(REFLUX_BUNDLE=str(poor.path), **plan, **shadowed("poor", USD_PER_HOUR="0.01")) as spent,
    ):
        services = (calm, bad, unmeasured, spent)
        server = await stack.enter_async_context(
            prometheus(tmp_path, *(service.port for service in services), rules=impatient(tmp_path))
        )
        await gap_after(calm.port, len(TEXTS))
        gap = await gap_after(bad.port, len(TEXTS))
        await gap_after(unmeasured.port, 0)
        await gap_after(spent.port, 0)
        told: set[tuple[str, str]] = set()
        expected = {
            ("RefluxGapExceeded", wrong.manifest.version),
            ("RefluxGapUnmeasured", alone.manifest.version),
            ("RefluxBudgetSpent", poor.manifest.version),
            ("RefluxGapBlind", poor.manifest.version),
        }

        async def as_expected() -> bool:
            told.clear()
            told.update(await firing(server))
            return told == expected

        try:
            await until(as_expected, pause=0.5)
        except TimeoutError:
            assert told == expected

        hour = f'{{model_version="{wrong.manifest.version}", window="1h"}}'

        async def as_it_says_itself() -> bool:
            """Return whether both see the same; Prometheus extrapolates by half a scrape, which is much at first."""
            rows = [await server.query(f"model:reflux_gap:{name}{hour}") for name in ("ratio", "log_evalue")]
            own = [gap["windows"]["1h"][name] for name in ("ratio", "log_evalue")]
            return [float(row["value"][1]) for (row,) in rows] == pytest.approx(own, rel=0.1)

        await until(as_it_says_itself, pause=0.5)
        recorded = {
            rule["record"]
            for group in yaml.safe_load(RULES.read_text())["groups"]
            for rule in group["rules"]
            if "record" in rule
        }
        names = {row["metric"]["__name__"] for row in await server.query('{__name__=~".+:reflux_.+"}')}
        assert recorded - names == WITHOUT_DATA

        for service in services:
            service.terminate()

        async def absent() -> bool:
            return await firing(server) == {("RefluxAbsent", "")}

        await until(absent, pause=0.5)
