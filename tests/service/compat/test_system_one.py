"""System One at `POST /v1/systemone`, TypeSafe's client of it, and somebody else's specification of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.auth.keyfile import key_line

from .conftest import LABELS, refused, scores

QUESTION = {"type": "choice", "instructions": "Which team?", "criteria": dict.fromkeys(LABELS)}


@pytest.fixture(scope="module")
def typesafe() -> Any:
    return pytest.importorskip("typesafe_sdk", reason="needs typesafe-sdk, of the extra dev")


@pytest.fixture
def connected(typesafe):
    """`connected(serving)`: TypeSafe's client of a service; nothing but its address differs from that of the vendor."""
    once = typesafe.RetryPolicy(max_retries=0)
    return lambda serving, key="any": typesafe.AsyncTypeSafeClient(base_url=serving.url, api_key=key, retry=once)


async def post(client, state: Any, question: Any = QUESTION, **fields: Any) -> Any:
    return await client.post(
        "/v1/systemone", json={"model": "m", "state": state, "questions": {"q": question}, **fields}
    )


async def test_typesafe_s_client_gets_the_native_answers(listening, client, native, texts, typesafe, connected) -> None:
    results = await native(client, texts)
    questions = {
        "team": typesafe.Choice(instructions="Which team?", criteria=dict.fromkeys(LABELS)),
        "again": typesafe.Choice(criteria={label: {"means": [label]} for label in LABELS[::-1]}),
    }
    async with listening() as serving, connected(serving) as vendor:
        for text, result in zip(texts, results, strict=True):
            response = await vendor.system_one(text, questions)
            assert (response.model, list(response.answers)) == ("tiny", ["team", "again"])
            for answer in response.choices.values():
                assert (answer.type, answer.choice) == ("choice", result["label"])
                assert answer.probabilities == dict(zip(LABELS, scores(result), strict=True))
                assert answer.confidence == pytest.approx((result["score"] - 1 / 4) / (1 - 1 / 4), abs=1e-6)
            assert (response.usage.input_tokens, response.usage.output_tokens) == (result["tokens"], 0)
            assert response.request_id


async def test_typesafe_s_client_may_compress_what_it_asks(listening, native, client, typesafe) -> None:
    pytest.importorskip("backports.zstd", reason="needs backports.zstd, a dependency below Python 3.14")
    text = "my parcel is late " * 100
    [result] = await native(client, [text])
    async with listening() as serving:
        async with typesafe.AsyncTypeSafeClient(base_url=serving.url, api_key="any", compression="zstd") as vendor:
            response = await vendor.system_one(text, {"team": typesafe.Choice(criteria=dict.fromkeys(LABELS))})
    assert response.raw_http_response.request.headers["content-encoding"] == "zstd"
    assert response.choices["team"].probabilities == dict(zip(LABELS, scores(result), strict=True))


async def test_typesafe_s_client_shows_the_errors(listening, typesafe, connected, tmp_path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(key_line("desk", "right", "rate=0.01/s"))
    team = {"team": typesafe.Choice(criteria=dict.fromkeys(LABELS))}
    async with listening(api_keys=keys) as serving:
        async with connected(serving, "wrong") as vendor:
            with pytest.raises(typesafe.TypeSafeAuthenticationError, match="this key is not known"):
                await vendor.system_one("invoice", team)
        async with connected(serving, "right") as vendor:
            with pytest.raises(typesafe.TypeSafeUnprocessableEntityError, match="a `noul` is not answered here"):
                await vendor.system_one("invoice", {"urgent": typesafe.Noul(instructions="Is it urgent?")})
            with pytest.raises(typesafe.TypeSafeRateLimitError, match="texts a second") as raised:
                await vendor.system_one("invoice", team)
            assert raised.value.retry_after_ms > 0


@pytest.mark.parametrize("text", ["please help", "invoice", "my late parcel and a refund", "Ünïcödé 中文"])
async def test_an_answer_has_no_fault_by_somebody_else_s_specification(listening, text) -> None:
    there = pytest.importorskip("jevcompat.client", reason="needs jevcompat, of the extra dev")
    validate = pytest.importorskip("jevcompat.validate")
    questions = {"q": QUESTION, "": QUESTION, "ä/b c": {**QUESTION, "criteria": {label: {"a": 1} for label in LABELS}}}
    async with listening() as serving:
        response = await asyncio.to_thread(there.Client(serving.url).ask, questions, text, unknown=1)
    assert response.status == 200
    request = {"model": "jev-latest", "state": text, "questions": questions}
    assert validate.validate_success(request, response) == []


async def test_confidence_is_0_where_all_labels_are_equally_probable(client) -> None:
    answer = (await post(client, "please help")).json()["answers"]["q"]
    assert set(answer["probabilities"].values()) == {0.25}
    assert answer["confidence"] == 0


@pytest.mark.parametrize("state", [{"message": "invoice"}, ["invoice"], [], {}])
async def test_a_state_that_is_no_text_is_refused(client, state) -> None:
    message = refused(await post(client, state), 422)
    assert message == "state: send the text as a string: this model reads one text, and no objects"


async def test_the_request_s_id_is_in_the_header_that_typesafe_s_client_reads(client) -> None:
    response = await client.post(
        "/v1/systemone", json={"state": "a", "questions": {"q": QUESTION}}, headers={"x-request-id": "mine"}
    )
    assert response.headers["x-typesafe-request-id"] == "mine"


@pytest.mark.parametrize("assets", [{"a": {"type": "image", "format": "png", "data_base64": ""}}, [1]])
async def test_images_are_refused(client, assets) -> None:
    message = refused(await post(client, "invoice", assets=assets), 422)
    assert message == "assets: images are not read: this model reads one text; leave `assets` out"
