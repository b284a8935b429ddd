"""vLLM's and SGLang's classification at `POST /v1/classify`."""

import pytest

from .conftest import refused, scores


async def ask(client, **body):
    return await client.post("/v1/classify", json=body)


async def test_each_text_is_answered_with_its_label_and_the_probability_of_each(client, native, texts):
    results = await native(client, texts)
    response = await client.post("/v1/classify", json={"model": "tiny", "input": texts}, headers={"x-request-id": "r"})
    reply = response.json()
    assert (reply["id"], reply["object"], reply["model"]) == ("classify-r", "list", "tiny")
    tokens = sum(result["tokens"] for result in results)
    assert reply["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    for index, (item, result) in enumerate(zip(reply["data"], results, strict=True)):
        assert item == {"index": index, "label": result["label"], "probs": scores(result), "num_classes": 4}


async def test_one_text_may_be_given_without_a_list(client, texts):
    one, listed = await ask(client, input=texts[0]), await ask(client, input=texts[:1])
    assert one.json()["data"] == listed.json()["data"]


@pytest.mark.parametrize(("given", "raw"), [(None, False), (True, False), (False, True)])
async def test_without_activation_the_numbers_are_logits(client, native, texts, given, raw):
    [result] = await native(client, texts[:1])
    [item] = (await ask(client, input=texts[0], use_activation=given)).json()["data"]
    assert (item["probs"] == result["logits"]) is raw


async def test_another_model_is_not_found(client):
    assert refused(await ask(client, input="a", model="other"), 404).startswith("the model other is not served here")
