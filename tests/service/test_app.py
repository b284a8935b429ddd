"""What the app refuses to start with, and how the shadow follows its answers."""

import pytest

from service.errors import StartupError
from tests.support.tiny_bundle import build_bundle
from tests.support.waiting import until


async def test_a_shadow_that_cannot_start_is_refused(running, tmp_path):
    teacher = {"kind": "no such kind"}
    with pytest.raises(StartupError, match=r"shadow\.teacher: kind: expected one of .*bundle"):
        async with running(shadow={"enabled": True, "teacher": teacher, "path": tmp_path / "shadow.sqlite"}):
            pass


async def test_every_answered_text_is_observed_by_the_shadow_and_no_other(client):
    await client.post("/classify", json={"texts": ["invoice", "courier"]})
    await client.post("/classify", json={"text": "invoice"})
    await client.post("/classify", json={"text": "poison"})
    await client.post("/classify", json={"text": ""})
    assert (await client.get("/gap")).json()["counts"]["requests"] == 3


async def test_the_gap_of_a_shadowed_service_is_that_to_its_teacher(running, tiny_teacher, tmp_path):
    shadow = {
        "enabled": True,
        "rate": 1.0,
        "path": tmp_path / "shadow.sqlite",
        "teacher": {"kind": "bundle", "path": str(tiny_teacher.path)},
    }
    async with running(shadow=shadow) as client:
        # The teacher takes `refund` for shipping.
        for text in ("refund", "invoice", "courier", "crash"):
            assert (await client.post("/classify", json={"text": text})).status_code == 200

        async def compared():
            return (await client.get("/gap")).json()["counts"]["compared"] == 4

        await until(compared)
        gap = (await client.get("/gap")).json()
    assert gap["counts"] == {"requests": 4, "sampled": 4, "compared": 4, "disagreements": 1}
    assert gap["gap"]["lower"] <= gap["gap"]["ratio"] == 0.25 <= gap["gap"]["upper"]


async def test_two_bundles_that_differ_in_name_alone_are_told_apart(running, tmp_path):
    bundles = [build_bundle(tmp_path / name, name=name) for name in ("first", "second")]
    assert bundles[0].manifest.version == bundles[1].manifest.version
    for bundle in bundles:
        async with running(bundle=bundle.path) as client:
            assert (await client.post("/classify", json={"text": "invoice"})).json()["model"] == bundle.manifest.name
