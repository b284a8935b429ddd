"""Reloading by request: only if the setting allows it, and with a clear result."""

import json
import shutil
from dataclasses import replace

import pytest

from export.bundle.format import GOLDEN, MANIFEST, MODEL, Bundle, golden_jsonl, write_bundle

FIXED = {"workers": 0, "batch_tokens": 512}


def change_a_file(path):
    (path / MODEL).write_bytes((path / MODEL).read_bytes() + b"\0")


def record_wrong_answers(path):
    bundle = Bundle.open(path)
    *others, last = bundle.golden()
    wrong = replace(last, probabilities=last.probabilities[::-1])
    contents = {name: path / name for name in bundle.manifest.files} | {GOLDEN: golden_jsonl([*others, wrong])}
    write_bundle(path, contents, bundle.manifest)


def forget_the_manifest(path):
    (path / MANIFEST).unlink()


@pytest.fixture
def bundle_path(make_bundle, tmp_path):
    """The path of a bundle that a test may change."""
    return make_bundle(tmp_path / "served").path


async def test_without_the_setting_the_route_does_not_exist(client):
    assert (await client.post("/admin/reload")).status_code == 404
    assert "/admin/reload" not in (await client.get("/openapi.json")).json()["paths"]


async def test_a_reload_returns_the_served_versions(running, make_bundle, bundle_path):
    async with running(bundle=bundle_path, admin=True, **FIXED) as client:
        written = make_bundle(bundle_path, flip={"refund": "shipping"})
        response = await client.post("/admin/reload")
        assert response.status_code == 200
        assert response.json() == {"versions": {"stable": written.manifest.version}}
        assert (await client.get("/model")).json()["version"] == written.manifest.version


@pytest.mark.parametrize("spoil", [change_a_file, record_wrong_answers, forget_the_manifest, shutil.rmtree])
async def test_a_bundle_that_fails_its_checks_is_refused_and_the_old_one_goes_on(running, bundle_path, spoil):
    async with running(bundle=bundle_path, admin=True, **FIXED) as client:
        before = (await client.get("/model")).json()
        spoil(bundle_path)
        response = await client.post("/admin/reload")
        assert response.status_code == 409
        error = response.json()["error"]
        assert error["code"] == "bundle_refused"
        assert error["request_id"] == response.headers["x-request-id"]
        assert str(bundle_path) in error["message"]
        assert "stay in service" in error["message"]
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/model")).json() == before
        answer = (await client.post("/classify", json={"text": "invoice"})).json()
        assert (answer["version"], answer["results"][0]["label"]) == (before["version"], "billing")


async def test_a_refused_bundle_can_be_replaced(running, make_bundle, bundle_path):
    async with running(bundle=bundle_path, admin=True, **FIXED) as client:
        change_a_file(bundle_path)
        assert (await client.post("/admin/reload")).status_code == 409
        written = make_bundle(bundle_path, flip={"refund": "shipping"})
        assert (await client.post("/admin/reload")).json() == {"versions": {"stable": written.manifest.version}}


async def test_the_documented_answers_are_given(running, bundle_path):
    async with running(bundle=bundle_path, admin=True, **FIXED) as client:
        document = (await client.get("/openapi.json")).json()
        responses = document["paths"]["/admin/reload"]["post"]["responses"]
        assert {"200", "409"} <= set(responses)
        assert "ErrorBody" in json.dumps(responses["409"])
        assert (await client.get("/admin/reload")).status_code == 405
