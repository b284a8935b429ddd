"""What LiteLLM's proxy refuses, leaves out or answers by another model is said with the setting of the proxy.

`litellm.json` has replies of the real proxy, in front of llama.cpp: `make rehearse-gateway RECORD=…` writes it anew.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from distill.teachers.account import NoAccount
from distill.teachers.anthropic import AnthropicConfig, AnthropicTeacher
from distill.teachers.api.errors import ApiError
from distill.teachers.api.gateways import gateway_of
from distill.teachers.api.pricing import Price
from distill.teachers.errors import TeacherError
from distill.teachers.openai import OpenAIConfig, OpenAITeacher

LABELS = ("billing", "refund", "shipping", "login", "other")
REPLIES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("litellm.json").read_text())
PASSED_ON = r"`extra_body: {allowed_openai_params: \[logprobs, top_logprobs\]}`"


def reply(name: str) -> httpx.Response:
    recorded = REPLIES[name]
    return httpx.Response(recorded["status"], headers=recorded["headers"], json=recorded["body"])


def always(name: str) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: reply(name)


def teacher(handler: Callable[[httpx.Request], httpx.Response], *, kind: str = "openai", **settings: Any) -> Any:
    made, config = {"openai": (OpenAITeacher, OpenAIConfig), "anthropic": (AnthropicTeacher, AnthropicConfig)}[kind]
    given = {"base_url": "http://gateway:4000/v1", "model": "tiny", "usd_per_million": Price(input=0, output=0)}
    exact = {"exact": "never"} if kind == "openai" else {}
    ready = config(**{**given, "attempts": 1, **exact, **settings})
    return aclosing(made(ready, LABELS, NoAccount(), transport=httpx.MockTransport(handler)))


async def test_codes_tokens_and_the_fingerprint_pass_and_the_name_is_that_of_the_proxy() -> None:
    async with teacher(always("answered")) as asked:
        (answer,) = await asked.ask(["my refund"])
    assert answer.covered > 0.7
    body = REPLIES["answered"]["body"]
    assert (answer.model, answer.fingerprint) == ("tiny", body["system_fingerprint"])
    assert answer.tokens == body["usage"]["total_tokens"]


async def test_a_refused_parameter_is_said_with_what_has_it_passed_on_and_not_taken_for_a_smaller_limit() -> None:
    calls: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        recorded = reply("refuses")  # for a model whose name holds numbers, as most do
        body = json.loads(recorded.content.replace(b"for model=tiny", b"for model=tiny-8b-2507"))
        return httpx.Response(recorded.status_code, headers=recorded.headers, json=body)

    async with teacher(refuse) as asked:
        with pytest.raises(TeacherError, match=f"LiteLLM refuses logprobs, top_logprobs .*{PASSED_ON}") as failure:
            await asked.prepare()
    assert "\n" not in str(failure.value)
    assert len(calls) == 1


async def test_missing_log_probabilities_are_said_with_what_has_them_passed_on() -> None:
    async with teacher(always("drops")) as asked:
        with pytest.raises(TeacherError, match=f"gives no top_logprobs.*LiteLLM.*{PASSED_ON}.*additional_drop_params"):
            await asked.prepare()


async def test_missing_log_probabilities_of_a_server_without_a_gateway_have_no_such_advice() -> None:
    def bare(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=REPLIES["drops"]["body"])

    async with teacher(bare) as asked:
        with pytest.raises(TeacherError, match="gives no top_logprobs") as failure:
            await asked.prepare()
    assert "LiteLLM" not in str(failure.value)


async def test_an_answer_of_a_fallback_ends_the_run_also_after_the_probe() -> None:
    names = iter(["answered"] * 4 + ["fallback"])
    async with teacher(lambda request: reply(next(names, "fallback"))) as asked:
        assert (await asked.ask(["my refund"]))[0].outcome == "ok"
        with pytest.raises(
            TeacherError, match=r"another model.*x-litellm-attempted-fallbacks: 1.*disable_fallbacks"
        ) as failure:
            await asked.ask(["a parcel"])
    assert not failure.value.retryable


async def test_cloudflares_fallbacks_are_found_too() -> None:
    def second_step(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"cf-aig-step": "1"}, json=REPLIES["answered"]["body"])

    async with teacher(second_step) as asked:
        with pytest.raises(TeacherError, match=r"cf-aig-step: 1.*a route without a fallback"):
            await asked.prepare()


async def test_it_is_said_once_that_calls_are_spread_over_several_models(caplog) -> None:
    caplog.set_level(logging.WARNING)
    names = iter(["answered", "of hosted_vllm"] * 4)
    async with teacher(lambda request: reply(next(names))) as asked:
        await asked.ask(["my refund", "a parcel", "an invoice"])
    (said,) = [record.getMessage() for record in caplog.records]
    assert "openai/tiny and hosted_vllm/tiny" in said
    assert "`model_name` of its own" in said


async def test_calls_to_one_model_are_no_news(caplog) -> None:
    caplog.set_level(logging.WARNING)
    async with teacher(always("answered")) as asked:
        await asked.ask(["my refund", "a parcel"])
    assert caplog.records == []


async def test_a_text_that_is_too_long_is_invalid_and_the_run_goes_on() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        return reply("too long" if b"a very long text" in request.content else "answered")

    async with teacher(handle) as asked:
        answers = await asked.ask(["my refund", "a very long text", "a parcel"])
    assert [answer.outcome for answer in answers] == ["ok", "invalid", "ok"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("wrong key", r"refuses the key \(400.*key_env"), ("no such model", "Invalid model name.*nosuch.*/v1/models")],
)
async def test_a_wrong_key_and_a_wrong_model_are_named(name: str, said: str) -> None:
    async with teacher(always(name)) as asked:
        with pytest.raises(ApiError, match=said):
            await asked.prepare()


@pytest.mark.parametrize("name", ["message", "message of a server without responses"])
async def test_messages_that_are_not_translated_in_full_name_the_setting(name: str) -> None:
    async with teacher(always(name), kind="anthropic") as asked:
        with pytest.raises(TeacherError, match=r"use_chat_completions_url_for_anthropic_messages: true.*hosted_vllm/"):
            await asked.prepare()


async def test_a_schema_that_a_chat_model_does_not_follow_may_have_been_left_out() -> None:
    async with teacher(always("answered"), method="votes", max_output_tokens=100) as asked:
        with pytest.raises(TeacherError, match=r"LiteLLM.*may leave out response_format.*\[response_format\]"):
            await asked.prepare()


def test_the_gateway_is_known_by_the_headers_of_its_errors() -> None:
    for name in ("refuses", "too long", "no such model"):
        gateway = gateway_of(REPLIES[name]["headers"])
        assert gateway is not None
        assert gateway.name == "LiteLLM"
