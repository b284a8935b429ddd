"""KServe's V1 protocol."""

import pytest

from .conftest import LABELS, refused


async def predict(client, name="tiny", **body):
    return await client.post(f"/v1/models/{name}:predict", json=body)


async def test_the_real_client_gets_the_native_answers(server, native, texts):
    kserve = pytest.importorskip("kserve", reason="kserve brings kubernetes, grpc and pandas: not in `dev`")
    results = await native(server, texts)
    base, config = str(server.base_url), kserve.RESTConfig(protocol="v1", timeout=30)
    async with kserve.InferenceRESTClient(config) as client:
        reply = await client.infer(base, {"instances": texts}, model_name="tiny")
        assert await client.is_model_ready(base, "tiny")
    for prediction, result in zip(reply["predictions"], results, strict=True):
        assert (prediction["label"], prediction["score"]) == (result["label"], result["score"])


@pytest.mark.parametrize("key", ["instances", "inputs"])
async def test_each_text_is_answered_with_labels_and_not_with_indices(client, native, texts, key):
    results = await native(client, texts)
    predictions = (await predict(client, **{key: texts})).json()["predictions"]
    for prediction, result in zip(predictions, results, strict=True):
        assert prediction["label"] == result["label"]
        assert prediction["score"] == result["score"]
        assert prediction["probabilities"] == {item["label"]: item["score"] for item in result["top"]}
        assert list(prediction["probabilities"]) == LABELS


async def test_the_served_model_is_listed_and_ready(client):
    assert (await client.get("/v1/models")).json() == {"models": ["tiny"]}
    assert (await client.get("/v1/models/tiny")).json() == {"name": "tiny", "ready": True}


async def test_another_model_is_not_found_and_the_served_one_is_named(client):
    for response in (await predict(client, "other", instances=["a"]), await client.get("/v1/models/other")):
        assert "the model other is not served here; there is tiny" in refused(response, 404)
