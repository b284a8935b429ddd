"""OpenAI's Decisions API at `POST /v1/decisions`, and OpenAI's client of it."""

from __future__ import annotations

from typing import Any

import pytest

from service.auth.keyfile import key_line

from .conftest import LABELS, refused, scores

MODEL = "gpt-6-luna"
CHOICES = [{"value": label} for label in LABELS]
QUESTION = {"type": "choice", "name": "team", "instructions": "Which team?", "choices": CHOICES}


@pytest.fixture(scope="module")
def openai() -> Any:
    return pytest.importorskip("openai", reason="needs openai, of the extra dev")


@pytest.fixture
def connected(openai):
    """`connected(serving)`: OpenAI's client of a service; nothing but its address differs from that of the vendor."""
    return lambda serving, key="any": openai.AsyncOpenAI(base_url=f"{serving.url}/v1", api_key=key, max_retries=0)


async def post(client, text: Any, **fields: Any) -> Any:
    return await client.post("/v1/decisions", json={"model": MODEL, "input": text, "questions": [QUESTION], **fields})


async def test_openai_s_client_gets_the_native_answers(listening, client, native, texts, connected) -> None:
    results = await native(client, texts)
    async with listening() as serving, connected(serving) as vendor:
        for text, result in zip(texts, results, strict=True):
            unnamed = {name: value for name, value in QUESTION.items() if name != "name"}
            decision = await vendor.decisions.create(model=MODEL, input=text, questions=[QUESTION, unnamed])
            assert decision.model == "tiny"
            assert [answer.name for answer in decision.answers] == ["team", None]
            for answer in decision.answers:
                assert (answer.type, answer.choice, answer.confidence) == ("choice", result["label"], result["score"])
                assert [one.value for one in answer.probabilities] == LABELS
                assert [one.probability for one in answer.probabilities] == scores(result)
            usage = decision.usage
            assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (
                result["tokens"],
                0,
                result["tokens"],
            )
            assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (0, 0)


async def test_openai_s_client_shows_the_errors(openai, listening, connected, tmp_path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(key_line("desk", "right", "rate=0.01/s"))
    predicate = {"type": "predicate", "instructions": "Is it urgent?"}
    async with listening(api_keys=keys) as serving:
        async with connected(serving, "wrong") as vendor:
            with pytest.raises(openai.AuthenticationError):
                await vendor.decisions.create(model=MODEL, input="invoice", questions=[QUESTION])
        async with connected(serving, "right") as vendor:
            with pytest.raises(openai.UnprocessableEntityError, match="a `predicate` is not answered here") as raised:
                await vendor.decisions.create(model=MODEL, input="invoice", questions=[predicate])
            assert raised.value.request_id
            with pytest.raises(openai.RateLimitError, match="texts a second"):
                await vendor.decisions.create(model=MODEL, input="invoice", questions=[QUESTION])


async def test_a_text_may_come_as_one_message_of_the_user(client, texts) -> None:
    plain = (await post(client, texts[0])).json()
    for content in (texts[0], [{"type": "input_text", "text": texts[0]}]):
        for message in ({"role": "user", "content": content}, {"role": "user", "type": "message", "content": content}):
            assert (await post(client, [message])).json() == plain


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}],
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
        [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}],
        [{"role": "user", "content": [{"type": "input_json", "data": {"a": 1}}]}],
        [{"type": "function_call_output", "call_id": "a", "output": "a"}],
        ["a"],
    ],
)
async def test_anything_but_one_text_is_refused(client, messages) -> None:
    message = refused(await post(client, messages), 422)
    assert (
        message == "input: send the text as a string, or as one user message with one text: this model reads one text"
    )


async def test_a_blank_message_is_refused_as_a_blank_text_is(client) -> None:
    given = refused(await post(client, " "), 422), refused(await post(client, [{"role": "user", "content": " "}]), 422)
    assert given[0] == given[1]
    assert given[0].startswith("input: String should match pattern")


async def test_parameters_for_the_vendor_s_cache_are_ignored(client, texts) -> None:
    more = {"prompt_cache_key": "a", "prompt_cache_options": {"mode": "explicit"}, "safety_identifier": "b"}
    assert (await post(client, texts[0], **more)).json() == (await post(client, texts[0])).json()


async def test_a_choice_is_listed_once(client) -> None:
    message = refused(await post(client, "a", questions=[{**QUESTION, "choices": [*CHOICES, CHOICES[1]]}]), 422)
    assert message.endswith("(repeated: 'shipping')")
