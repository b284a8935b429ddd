"""vLLM's and SGLang's classification at `POST /v1/classify`."""

from __future__ import annotations

import pytest

LABELS = ["billing", "shipping", "account", "technical"]


async def ask(client, **body):
    return await client.post("/v1/classify", json=body)


async def test_each_text_is_answered_with_its_label_and_the_probability_of_each(client, native, texts):
    results = await native(client, texts)
    response = await client.post("/v1/classify", json={"model": "tiny", "input": texts}, headers={"x-request-id": "r"})
    reply = response.json()
    assert {key: reply[key] for key in ("id", "object", "model")} == {
        "id": "classify-r",
        "object": "list",
        "model": "tiny",
    }
    tokens = sum(result["tokens"] for result in results)
    assert reply["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    for index, (item, result) in enumerate(zip(reply["data"], results, strict=True)):
        scores = {scored["label"]: scored["score"] for scored in result["top"]}
        assert item == {
            "index": index,
            "label": result["label"],
            "probs": [scores[label] for label in LABELS],
            "num_classes": 4,
        }


async def test_one_text_may_come_as_such(client, texts):
    one, listed = await ask(client, input=texts[0]), await ask(client, input=texts[:1])
    assert one.json()["data"] == listed.json()["data"]


@pytest.mark.parametrize(("given", "raw"), [(None, False), (True, False), (False, True)])
async def test_without_activation_the_numbers_are_logits(client, native, texts, given, raw):
    [result] = await native(client, texts[:1])
    [item] = (await ask(client, input=texts[0], use_activation=given)).json()["data"]
    assert (item["probs"] == result["logits"]) is raw


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"input": "a", "model": "other"}, 404, "the model other is not served here"),
        ({"input": [1, 2]}, 422, "input[0]: Input should be a valid string"),
        ({"input": "a", "truncate_prompt_tokens": 1}, 422, "truncate_prompt_tokens: Extra inputs"),
        ({"model": "tiny"}, 422, "input: Field required"),
    ],
)
async def test_what_does_not_fit_is_refused_in_openai_s_shape(client, body, status, told):
    response = await ask(client, **body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["message"].startswith(told)
    assert error["code"] == status
