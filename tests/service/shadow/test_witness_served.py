"""A service whose shadow has a witness: what it counts, what it asks the teacher, and what it refuses."""

from __future__ import annotations

import threading
import time

import pytest

from service.errors import StartupError
from service.shadow.witness import LoadedWitness
from tests.support.tiny_bundle import WORDS, build_bundle, build_witness, rewritten
from tests.support.waiting import until

TEXTS = [word for words in WORDS.values() for word in words]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A student that is wrong about `refund` and `late`, and as sure of them as of other words."""
    flip = {"refund": "shipping", "late": "technical"}
    return build_bundle(tmp_path_factory.mktemp("served") / "student", flip=flip)


@pytest.fixture(scope="module")
def better(tiny_bundle):
    """A bundle that is right about every word; it is the teacher too."""
    return tiny_bundle


@pytest.fixture(scope="module")
def witness(student, better, tmp_path_factory):
    return build_witness(tmp_path_factory.mktemp("witness") / "witness", student, better)


@pytest.fixture
def witnessed(running, student, better, witness, tmp_path):
    """`async with witnessed(**settings of the shadow) as client`: the student, with the witness, all texts sampled."""

    def run(bundle=student.path, candidate=None, admin=False, **settings):
        teacher = {"kind": "bundle", "path": str(better.path)}
        shadow = {"enabled": True, "rate": 1.0, "path": tmp_path / "shadow.sqlite", "teacher": teacher}
        beside = {} if candidate is None else {"candidate": candidate}
        return running(bundle=bundle, admin=admin, shadow={**shadow, "witness": witness.path, **settings}, **beside)

    return run


async def seen(client, count):
    """Return /gap as soon as the witness has read `count` texts and each has been compared."""
    found = {}

    async def done():
        found.update((await client.get("/gap")).json())
        return found["witness"]["seen"] == found["counts"]["compared"] == count

    await until(done)
    return found


async def ask(client, texts):
    for text in texts:
        assert (await client.post("/classify", json={"text": text})).status_code == 200


async def test_a_text_is_counted_in_the_band_that_student_and_witness_give(witnessed, witness):
    async with witnessed() as client:
        await ask(client, TEXTS)
        gap = await seen(client, len(TEXTS))
        metrics = (await client.get("/metrics")).text
    version = gap["model_version"]
    assert f'reflux_witness_texts_total{{model_version="{version}",result="seen"}} {len(TEXTS)}.0' in metrics
    assert f'reflux_witness_agreed_total{{model_version="{version}"}} {len(TEXTS) - 2}.0' in metrics
    assert gap["counts"]["requests"] == len(TEXTS)
    assert gap["counts"]["disagreements"] == 2
    hardest = [band for band in gap["bands"] if band["requests"]][-1]
    assert (hardest["requests"], hardest["disagreements"]) == (2, 2)  # the two, although the student was sure of them
    assert hardest["expected_ratio"] > 0.5
    assert gap["witness"] == {
        "name": "tiny",
        "version": witness.manifest.version,
        "requests": len(TEXTS),
        "seen": len(TEXTS),
        "failed": 0,
        "dropped": 0,
        "agreement": pytest.approx(1 - 2 / len(TEXTS)),
    }


async def test_counts_outlive_a_restart_and_are_not_mixed_with_those_of_the_student_alone(witnessed):
    async with witnessed() as client:
        await ask(client, TEXTS[:5])
        await seen(client, 5)
    async with witnessed() as client:
        assert (await client.get("/gap")).json()["counts"]["compared"] == 5
    async with witnessed(witness=None) as client:
        gap = (await client.get("/gap")).json()
        assert (gap["witness"], gap["counts"]["requests"]) == (None, 0)
        await ask(client, TEXTS[:3])
    async with witnessed() as client:
        assert (await client.get("/gap")).json()["counts"]["requests"] == 5


async def test_a_share_of_the_texts_is_read_and_shadowed(witnessed):
    async with witnessed(witness_share=0.5) as client:
        await ask(client, TEXTS * 3)

        async def settled():
            gap = (await client.get("/gap")).json()
            return gap["witness"]["requests"] == 120 and gap["counts"]["compared"] == gap["witness"]["seen"] > 0

        await until(settled)
        gap = (await client.get("/gap")).json()
    assert 35 <= gap["witness"]["seen"] == gap["counts"]["requests"] <= 85


async def test_a_witness_that_hangs_delays_no_answer_and_no_coin_is_tossed(witnessed, monkeypatch):
    free = threading.Event()
    monkeypatch.setattr(LoadedWitness, "read", lambda self, batch: free.wait(30) and [])
    try:
        async with witnessed(queue_rows=4, stop_seconds=0.5) as client:
            await ask(client, TEXTS[:10])
            gap = (await client.get("/gap")).json()
            began = time.monotonic()
        assert time.monotonic() - began < 10
    finally:
        free.set()
    assert (gap["witness"]["requests"], gap["witness"]["seen"], gap["witness"]["dropped"]) == (10, 0, 6)
    assert gap["counts"]["requests"] == gap["counts"]["sampled"] == 0


async def test_the_witness_of_another_version_is_refused(witnessed, student, tmp_path):
    other = rewritten(student, tmp_path / "other", max_tokens=31)
    with pytest.raises(StartupError, match=r"shadow: shadow\.witness: .*reflux witness"):
        async with witnessed(bundle=other.path):
            pass


async def test_a_reload_to_a_version_without_a_witness_is_refused_and_the_old_one_goes_on(witnessed, student, tmp_path):
    served = rewritten(student, tmp_path / "served")
    async with witnessed(bundle=served.path, admin=True) as client:
        rewritten(student, served.path, max_tokens=31)
        response = await client.post("/admin/reload")
        assert response.status_code == 409
        assert "reflux witness" in response.json()["error"]["message"]
        await ask(client, TEXTS[:3])
        assert (await seen(client, 3))["model_version"] == student.manifest.version


async def test_a_reload_takes_a_new_witness_of_the_same_student(witnessed, witness, tmp_path):
    current = rewritten(witness, tmp_path / "current")
    async with witnessed(witness=current.path, admin=True) as client:
        newer = rewritten(witness, current.path, max_tokens=31)
        assert (await client.post("/admin/reload")).status_code == 200
        gap = (await client.get("/gap")).json()
    assert gap["witness"]["version"] == newer.manifest.version != witness.manifest.version


async def test_a_candidate_is_shadowed_without_a_witness(witnessed, better):
    async with witnessed(candidate=better.path) as client:
        stable, candidate = [
            (await client.get("/gap", params={"variant": name})).json() for name in ("stable", "candidate")
        ]
    assert stable["witness"]["name"] == "tiny"
    assert candidate["witness"] is None
