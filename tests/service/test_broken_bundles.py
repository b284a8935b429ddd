"""A broken bundle stops a start with one line and a reload with 409; the served bundle stays in service."""

import re

import pytest

from tests.support.broken_bundles import FAULTS, seal, set_in_manifest

SOME = (
    "max_tokens is huge",
    "labels: equal",
    "a file named '../x'",
    "golden probabilities is nan",
    "golden rows are not UTF-8",
    "reference edges is objects",
    "reference is cut off at 0.5",
    "tokenizer has no model",
    "tokenizer adds a token beyond the graph's",
    "graph has three classes",
    "graph has weights in another folder",
    "graph is cut off at 0.5",
    "model.onnx is a link to a file outside",
    "manifest is nested deeply",
)
"""One of each kind: all of them are in the tests of `export`."""


@pytest.mark.parametrize("name", SOME)
async def test_a_reload_is_refused_in_one_line_and_the_old_bundle_goes_on(running, bundle_copy, name):
    async with running(bundle=bundle_copy, admin=True, workers=0) as client:
        before = (await client.get("/model")).json()
        FAULTS[name].apply(bundle_copy)
        response = await client.post("/admin/reload", headers={"x-request-id": "mine"})
        assert response.status_code == 409
        error = response.json()["error"]
        assert (error["code"], error["request_id"]) == ("bundle_refused", "mine")
        assert re.search(FAULTS[name].names, error["message"])
        assert "\n" not in error["message"]
        assert (await client.get("/model")).json() == before
        assert (await client.post("/classify", json={"text": "invoice"})).json()["results"][0]["label"] == "billing"


@pytest.mark.parametrize("name", [SOME[0], SOME[-2]])
async def test_a_start_is_refused_in_one_line(start_process, bundle_copy, name):
    FAULTS[name].apply(bundle_copy)
    async with start_process(REFLUX_BUNDLE=str(bundle_copy)) as process:
        assert await process.ended() == 1
    *logged, refusal = process.lines
    assert all(line.startswith("{") for line in logged)
    assert refusal.startswith("reflux refuses to start: ")
    assert re.search(FAULTS[name].names, refusal)


async def test_a_candidate_is_refused_like_the_bundle_beside_it(running, bundle_copy, tiny_bundle):
    async with running(candidate=bundle_copy, candidate_share=0.5, admin=True, workers=0) as client:
        set_in_manifest(labels=["a", "a"])(bundle_copy)
        seal(bundle_copy)
        response = await client.post("/admin/reload")
        assert response.status_code == 409
        assert re.search(r"manifest\.json: 'labels'", response.json()["error"]["message"])


async def test_an_unexpected_exception_while_a_bundle_is_loaded_is_a_refusal_too(running, monkeypatch):
    async with running(admin=True, workers=0) as client:

        def fail(*_, **__):
            raise LookupError("nobody foresaw\nthis")

        monkeypatch.setattr("service.inference.load.Reference.open", fail)
        response = await client.post("/admin/reload")
        assert response.status_code == 409
        assert "LookupError: nobody foresaw this" in response.json()["error"]["message"]
        assert (await client.get("/readyz")).status_code == 200
