"""`POST /` for the Inference API's client, and TEI there, at `/predict`, `/info` and `/health`."""

import asyncio
import dataclasses

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from tokenizers import Tokenizer

from export.bundle.format import TOKENIZER, write_bundle
from service.app import create_app
from service.errors import OverloadedError
from service.inference import dataplane

from .conftest import LABELS, refused, scores


async def predict(client, inputs, path="/predict", **options):
    response = await client.post(path, json={"inputs": inputs, **options})
    assert response.status_code == 200, response.text
    return response.json()


async def infer(client, inputs, **parameters):
    return await predict(client, inputs, "/", parameters=parameters)


@pytest.fixture
def left_bundle(tiny_bundle, tmp_path):
    """A bundle like `tiny_bundle` that cuts the beginning of a long text."""
    tokenizer = Tokenizer.from_file(str(tiny_bundle.path / TOKENIZER))
    tokenizer.enable_truncation(32, direction="left")
    contents = {name: tiny_bundle.path / name for name in tiny_bundle.manifest.files}
    manifest = dataclasses.replace(tiny_bundle.manifest, truncation_side="left")
    return write_bundle(tmp_path / "left", {**contents, TOKENIZER: tokenizer.to_str().encode()}, manifest).path


async def test_the_real_client_gets_the_native_answers(server, native, texts):
    results = await native(server, texts)

    def ask():
        client = InferenceClient(model=f"{server.base_url}/", provider="hf-inference")
        return (
            [client.text_classification(text) for text in texts],
            client.text_classification(texts[0], top_k=2),
            client.text_classification(texts[0], function_to_apply="none"),
            client.health_check(model=str(server.base_url)),
            client.get_endpoint_info(model=str(server.base_url)),
        )

    answers, two, raw, healthy, info = await asyncio.to_thread(ask)
    for answer, result in zip(answers, results, strict=True):
        assert [dict(label=item.label, score=item.score) for item in answer] == result["top"]
    assert [item.label for item in two] == [item["label"] for item in results[0]["top"][:2]]
    assert {item.label: item.score for item in raw} == dict(zip(LABELS, results[0]["logits"], strict=True))
    assert healthy
    assert info["model_id"] == "tiny"


async def test_the_real_client_shows_the_error(server):
    client = InferenceClient(model=f"{server.base_url}/")
    with pytest.raises(HfHubHTTPError, match="top_k: Input should be greater than or equal to 1") as raised:
        await asyncio.to_thread(client.text_classification, "invoice", top_k=0)
    assert raised.value.response.status_code == 422


@pytest.mark.parametrize("path", ["/predict", "/"])
async def test_tei_gets_one_list_for_a_text_and_a_list_of_lists_for_several(client, native, texts, path):
    results = [result["top"] for result in await native(client, texts)]
    assert await predict(client, texts[0], path) == results[0]
    assert await predict(client, texts[:1], path) == results[0]
    assert await predict(client, [[text] for text in texts], path) == results
    assert await predict(client, [[texts[0]]], path) == results[:1]


@pytest.mark.parametrize("inputs", [["a", "b"], [["a", "b"]], [["a"], ["b", "c"]], ["a", "b", "c"], [["a"], "b"]])
async def test_tei_refuses_pairs_of_texts(client, inputs):
    message = refused(await client.post("/predict", json={"inputs": inputs}), 422, "Validation")
    assert "a pair of texts" in message
    assert '[["a"], ["b"]]' in message


async def test_with_parameters_a_list_is_a_batch_and_the_response_is_nested(client, native, texts):
    results = [result["top"] for result in await native(client, texts)]
    assert await infer(client, texts[0]) == results[:1]
    assert await infer(client, texts) == results


async def test_the_word_parameters_in_a_text_is_no_key(client):
    assert isinstance((await predict(client, "parameters", "/"))[0], dict)
    assert isinstance((await predict(client, '"parameters"', "/"))[0], dict)


@pytest.mark.parametrize(("top_k", "listed"), [(None, 4), (1, 1), (3, 3), (9, 4)])
async def test_top_k_lists_that_many_labels(client, native, texts, top_k, listed):
    [result] = await native(client, texts[:1])
    assert await infer(client, texts[0], top_k=top_k) == [result["top"][:listed]]


async def test_the_scores_have_the_requested_activation(client, native, texts):
    [result] = await native(client, texts[:1])
    logits = np.array(result["logits"])
    for function, expected in (("none", logits), ("sigmoid", 1 / (1 + np.exp(-logits))), (None, scores(result))):
        [scored] = await infer(client, texts[0], function_to_apply=function)
        assert {item["label"]: item["score"] for item in scored} == pytest.approx(
            dict(zip(LABELS, expected, strict=True)), abs=2e-6
        )
        assert [item["score"] for item in scored] == sorted((item["score"] for item in scored), reverse=True)
    assert await infer(client, texts[0], function_to_apply="softmax") == [result["top"]]
    [raw] = await infer(client, texts[0], function_to_apply="none")
    assert await predict(client, texts[0], raw_scores=True) == raw


async def test_truncate_false_refuses_a_long_text(client):
    long = "invoice " * 40
    assert (await predict(client, long))[0]["label"] == "billing"
    assert (await predict(client, "invoice", truncate=False))[0]["label"] == "billing"
    response = await client.post("/predict", json={"inputs": [["invoice"], [long]], "truncate": False})
    assert refused(response, 422, "Validation").startswith("inputs[1]: more than the 32 tokens")


async def test_a_model_that_cuts_the_beginning_refuses_truncation_at_the_end(running, left_bundle):
    texts = [["invoice"], ["invoice " * 40 + "parcel " * 31]]
    async with running(bundle=left_bundle) as client:
        assert [scores[0]["label"] for scores in await predict(client, texts)] == ["billing", "shipping"]
        assert await predict(client, texts[:1], truncation_direction="right")
        response = await client.post("/predict", json={"inputs": texts, "truncation_direction": "Right"})
        assert refused(response, 422, "Validation").startswith("inputs[1]: more than the 32 tokens that this model")


@pytest.mark.parametrize(
    ("content", "media_type", "status"), [(b"{", "application/json", 400), (b"{}", "text/plain", 415)]
)
async def test_a_body_that_is_not_json_is_refused_in_tei_s_shape(client, content, media_type, status):
    response = await client.post("/", content=content, headers={"content-type": media_type, "x-request-id": "mine"})
    refused(response, status, "Validation")
    assert response.headers["x-request-id"] == "mine"


async def test_a_text_that_the_graph_fails_on_is_a_fault_of_the_backend(client):
    refused(await client.post("/predict", json={"inputs": "poison"}), 500, "Backend")


async def test_overload_says_when_to_retry(client, monkeypatch):
    async def overloaded(*_, **__):
        raise OverloadedError("too many texts wait; try again", retry_after=3)

    monkeypatch.setattr(dataplane, "classify", overloaded)
    response = await client.post("/", json={"inputs": "invoice"})
    assert refused(response, 429, "Overloaded") == "too many texts wait; try again"
    assert response.headers["retry-after"] == "3"


async def test_info_says_what_is_served(client, tiny_bundle):
    info = (await client.get("/info")).json()
    assert info["model_id"] == info["served_model_name"] == "tiny"
    assert info["model_sha"] == tiny_bundle.manifest.version
    assert info["model_type"]["classifier"]["id2label"] == {str(index): label for index, label in enumerate(LABELS)}
    assert info["model_type"]["classifier"]["label2id"] == {label: index for index, label in enumerate(LABELS)}
    assert info["max_client_batch_size"] == 64
    assert info["max_input_length"] == 32


async def test_health_fails_while_the_service_stops(make_settings):
    app = create_app(make_settings())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://reflux") as client:
            for path in ("/health", "/ping"):
                assert (await client.get(path)).status_code == 200
            app.state.reflux.draining = True
            for path in ("/health", "/ping"):
                refused(await client.get(path), 503, "Unhealthy")


async def test_the_page_is_still_at_the_root(client):
    assert (await client.get("/")).headers["content-type"].startswith("text/html")


async def test_protocols_can_be_left_out(running):
    async with running(protocols=False) as client:
        assert (await client.post("/", json={"inputs": "a"})).status_code == 405
        for path in (
            *("/predict", "/invocations", "/vertex", "/v1/classify", "/v1/decisions", "/v1/systemone"),
            "/v2/models/tiny/infer",
        ):
            response = await client.post(path, json={"inputs": "a"})
            assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
        response = await client.post("/classify", json={"input": ["a"]})
        assert response.status_code == 422
        assert response.json()["error"]["code"] == "invalid"
        described = (await client.get("/openapi.json")).json()["components"]["schemas"]
        assert {name for name in described if name.endswith("ErrorBody")} == {"ErrorBody"}
