"""infinity's reply on `POST /classify`, for requests with its key, `input`."""

import pytest

from service.compat.errors import OpenAIErrorBody

from .conftest import LABELS, refused


async def ask(client, **body):
    return await client.post("/classify", json=body)


async def test_a_request_with_input_is_answered_as_infinity_does(client, native, texts):
    results = await native(client, texts)
    response = await client.post(
        "/classify", json={"model": "default/not-specified", "input": texts}, headers={"x-request-id": "mine"}
    )
    reply = response.json()
    assert reply["data"] == [result["top"] for result in results]
    assert (reply["object"], reply["model"], reply["id"]) == ("classify", "tiny", "infinity-mine")
    tokens = sum(result["tokens"] for result in results)
    assert reply["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert isinstance(reply["created"], int)


async def test_raw_scores_are_logits(client, native, texts):
    [result] = await native(client, texts[:1])
    [scored] = (await ask(client, input=texts[:1], raw_scores=True)).json()["data"]
    assert {item["label"]: item["score"] for item in scored} == dict(zip(LABELS, result["logits"], strict=True))


@pytest.mark.parametrize("name", ["tiny", "default", "default/not-specified", None])
async def test_the_model_may_be_named_or_omitted(client, name):
    assert (await ask(client, input=["invoice"], model=name)).json()["model"] == "tiny"


async def test_another_model_is_not_found_and_the_served_one_is_named(client, tiny_bundle):
    message = refused(await ask(client, input=["invoice"], model="other"), 404, "not_found", OpenAIErrorBody)
    assert message == f"the model other is not served here; there is tiny, version {tiny_bundle.manifest.version}"


@pytest.mark.parametrize("body", [{"text": "input", "top_k": 0}, {"texts": ["input", " "]}, ["input"], "input"])
async def test_a_native_request_about_input_is_refused_as_a_native_one(client, body):
    response = await client.post("/classify", json=body)
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "invalid"
    assert response.json()["error"]["request_id"]


async def test_a_fault_of_the_graph_has_infinity_s_error_shape(client):
    refused(await ask(client, input=["poison"]), 500, "inference_failed", OpenAIErrorBody)
