"""A gateway that answers out of its cache is found out where draws have to be draws, and named with what to do."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.teachers.account import Account, NoAccount
from distill.teachers.anthropic import AnthropicConfig, AnthropicTeacher
from distill.teachers.api.gateways import from_cache, gateway_of
from distill.teachers.api.pricing import Price
from distill.teachers.errors import TeacherError
from distill.teachers.openai import OpenAIConfig, OpenAITeacher

LABELS = ("billing", "refund", "shipping")
PRICE = Price(input=0, output=0)
LITELLM = {"x-litellm-cache-key": "6a14"}
HITS: dict[str, tuple[dict[str, str], str]] = {
    "LiteLLM": (LITELLM, r"cache: {no-cache: true}"),
    "Portkey": ({"x-portkey-cache-status": "HIT"}, "x-portkey-cache-force-refresh"),
    "Helicone": ({"Helicone-Cache": "HIT"}, "Helicone-Cache-Enabled"),
    "Cloudflare AI Gateway": ({"cf-aig-cache-status": "HIT"}, "cf-aig-skip-cache"),
    "OpenRouter": ({"X-OpenRouter-Cache-Status": "HIT"}, "X-OpenRouter-Cache"),
    "Kong": ({"X-Kong-Upstream-Latency": "1", "X-Cache-Status": "Hit"}, "cache plugin"),
    "Vercel": ({"x-vercel-cache": "HIT"}, "cache off"),
}


class Gateway:
    """A model behind a cache that is keyed by the body, but for what `ignored` names, and says so by `headers`.

    A body with what `bypass` has is passed on. The model's votes, and the ids of its answers, differ from call to call.
    """

    def __init__(
        self, headers: Mapping[str, str] = {}, *, ids: Callable[[int], object] = "chatcmpl-{}".format, **more: Any
    ) -> None:
        self.headers, self.ids = dict(headers), ids
        self.ignored: tuple[str, ...] = more.get("ignored", ())
        self.bypass: str = more.get("bypass", "")
        self.extra: dict[str, Any] = more.get("extra", {})
        self.caches: bool = more.get("caches", True)
        self.kept: dict[str, dict[str, Any]] = {}
        self.asked: list[dict[str, Any]] = []
        self._random = random.Random(1)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if request.url.path.endswith("/tokenize"):
            return httpx.Response(404, json={"detail": "Not Found"})
        key = json.dumps({name: value for name, value in body.items() if name not in self.ignored}, sort_keys=True)
        fresh = not self.caches or (self.bypass and self.bypass in body)
        if key in self.kept and not fresh:
            return httpx.Response(200, headers=self.headers, json=self.kept[key])
        self.asked.append(body)
        self.kept[key] = self.answer(body)
        passed = {"x-litellm-version": "1.108.7"} if self.headers == LITELLM else {}
        return httpx.Response(200, headers=passed, json=self.kept[key])

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        label = self._random.choice(LABELS)
        said = json.dumps({"label": label, "ranking": [{"label": label, "confidence": 0.9}]})
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "input_tokens": 9, "output_tokens": 1}
        given = {"id": self.ids(len(self.asked)), "created": 1_700_000_000, "usage": usage, **self.extra}
        if "max_tokens" in body and "system" in body:
            return given | {"stop_reason": "end_turn", "content": [{"type": "text", "text": said}]}
        choice: dict[str, Any] = {"message": {"content": said}, "finish_reason": "stop"}
        if body.get("logprobs"):
            top = [{"token": code, "logprob": -1.1} for code in "ABC"]
            choice["logprobs"] = {"content": [{"token": "A", "logprob": -1.1, "top_logprobs": top}]}
        return given | {"choices": [choice]}


def teacher(
    gateway: Gateway, account: Account | None = None, *, kind: str = "openai", **settings: Any
) -> aclosing[Any]:
    given = {"base_url": "http://gateway:4000/v1", "model": "m", "usd_per_million": PRICE, "attempts": 1, **settings}
    made, config = {"openai": (OpenAITeacher, OpenAIConfig), "anthropic": (AnthropicTeacher, AnthropicConfig)}[kind]
    transport = httpx.MockTransport(gateway)
    return aclosing(made(config(**given), LABELS, account or NoAccount(), transport=transport))


@pytest.mark.parametrize("name", HITS)
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_votes_out_of_a_cache_stop_the_run_and_the_gateway_is_named(name: str, kind: str) -> None:
    headers, remedy = HITS[name]
    async with teacher(Gateway(headers), kind=kind, method="votes") as asked:
        with pytest.raises(TeacherError, match=f"m answered from a cache .*{name} caches answers.*{remedy}") as failure:
            await asked.ask(["my refund"])
    assert not failure.value.retryable
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_two_draws_with_one_id_stop_the_run_where_no_header_tells(kind: str) -> None:
    async with teacher(Gateway(), kind=kind, method="votes") as asked:
        with pytest.raises(TeacherError, match=r"one response \(chatcmpl-\d+\) to two draws.*LiteLLM.*Portkey"):
            await asked.ask(["my refund"])


async def test_what_the_message_advises_is_what_helps() -> None:
    gateway = Gateway(LITELLM, bypass="cache")
    async with teacher(gateway, method="votes", extra_body={"cache": {"no-cache": True}}) as asked:
        (answer,) = await asked.ask(["my refund"])
    assert answer.outcome == "ok"
    assert len(gateway.asked) == 3 + 8


@pytest.mark.parametrize(
    "gateway",
    [
        Gateway(caches=False),
        Gateway(caches=False, ids=lambda call: ""),
        Gateway(caches=False, ids=lambda call: None),
        Gateway(caches=False, ids=lambda call: "chatcmpl-A1"),  # KoboldCpp's are all the same
        Gateway(caches=False, ids=lambda call: f"chatcmpl-{1_700_000_000}"),  # the time in seconds
        Gateway(caches=False, ids=lambda call: f"chatcmpl-{call % 2}", extra={"system_fingerprint": "fp_ollama"}),
    ],
    ids=["unique", "empty", "none", "constant", "time", "ollama"],
)
async def test_draws_that_are_draws_are_taken_whatever_a_servers_ids_are_worth(gateway: Gateway) -> None:
    async with teacher(gateway, method="votes") as asked:
        (answer,) = await asked.ask(["my refund"])
        (again,) = await asked.ask(["my refund"], repeat=1)
    assert (answer.outcome, again.outcome) == ("ok", "ok")


@pytest.mark.parametrize("method", ["logprobs", "votes", "verbalised"])
async def test_a_second_asking_out_of_a_cache_is_no_second_draw(method: str) -> None:
    async with teacher(Gateway(), method=method, permutations=1, samples=1) as asked:
        await asked.ask(["my refund"])
        with pytest.raises(TeacherError, match="to two draws"):
            await asked.ask(["my refund"], repeat=1)


async def test_a_second_asking_in_a_later_run_is_compared_with_what_was_kept(tmp_path: Path) -> None:
    gateway = Gateway()
    for repeat in (0, 1):
        with AnswerStore(tmp_path / "answers.sqlite") as store:
            book = StoredAccount(store)
            async with teacher(gateway, book, permutations=1) as asked:
                if repeat:
                    with pytest.raises(TeacherError, match="to two draws"):
                        await asked.ask(["my refund"], repeat)
                else:
                    await asked.ask(["my refund"])
            await book.close()


async def test_a_draw_out_of_a_cache_is_not_kept(tmp_path: Path) -> None:
    gateway = Gateway(LITELLM)
    with AnswerStore(tmp_path / "answers.sqlite") as store:
        book = StoredAccount(store)
        async with teacher(gateway, book, method="votes") as asked:
            with pytest.raises(TeacherError):
                await asked.ask(["my refund"])
            left = await asked.plan("my refund")
        await book.close()
    assert len(left) == 8 - (len(gateway.asked) - 3)


async def test_a_distribution_out_of_a_cache_is_the_same_and_taken(tmp_path: Path) -> None:
    gateway = Gateway(LITELLM)
    async with teacher(gateway) as asked:
        await asked.ask(["my refund"])
        (answer,) = await asked.ask(["my refund"])
    assert answer.outcome == "ok"
    assert len(gateway.asked) == 3 + 1


async def test_probes_out_of_a_cache_stop_the_run_since_servers_own_parameters_may_not_be_in_its_key() -> None:
    gateway = Gateway(LITELLM, ignored=("chat_template_kwargs",))
    async with teacher(gateway) as asked:
        await asked.prepare()
    other = {"chat_template_kwargs": {"enable_thinking": False}}
    async with teacher(gateway, extra_body=other) as asked:
        with pytest.raises(TeacherError, match=r"x-litellm-cache-key.*no-cache"):
            await asked.prepare()


async def test_an_answer_to_a_question_that_was_only_alike_is_never_taken() -> None:
    gateway = Gateway({"x-portkey-cache-status": "SEMANTIC HIT"})
    async with teacher(gateway) as asked:
        await asked.ask(["my refund"])
        with pytest.raises(TeacherError, match="SEMANTIC HIT"):
            await asked.ask(["my refund"])


async def test_it_is_said_that_a_gateway_hides_exact_answers(caplog) -> None:
    caplog.set_level(logging.WARNING)
    async with teacher(Gateway(LITELLM)) as asked:
        await asked.prepare()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "20 likeliest tokens" in said
    assert "LiteLLM hides whether its server supports that" in said
    assert "`exact: never`" in said


@pytest.mark.parametrize(("settings", "headers"), [({"exact": "never"}, LITELLM), ({}, {})])
async def test_nothing_is_said_where_nothing_is_hidden(
    caplog, settings: dict[str, Any], headers: dict[str, str]
) -> None:
    async with teacher(Gateway(headers), **settings) as asked:
        await asked.prepare()
    assert caplog.records == []


async def test_exact_answers_that_a_gateway_keeps_one_from_name_it() -> None:
    async with teacher(Gateway(LITELLM), exact="always") as asked:
        with pytest.raises(TeacherError, match=r"exact: always.*LiteLLM stands between.*base_url"):
            await asked.prepare()


@pytest.mark.parametrize(
    ("headers", "sign"),
    [
        *((headers, next(reversed(headers))) for headers, _ in HITS.values()),
        ({"x-cache": "Hit from cloudfront"}, "x-cache"),
        ({"x-cache": "MISS, HIT"}, "x-cache"),
        ({"cf-cache-status": "HIT"}, "cf-cache-status"),
        ({"cache-status": "edge; hit; ttl=5"}, "cache-status"),
        ({"x-proxy-cache": "HIT"}, "x-proxy-cache"),
        ({"x-gateway-cache-hit": "true"}, "x-gateway-cache-hit"),
        ({"llm_provider-cf-aig-cache-status": "HIT"}, "llm_provider-cf-aig-cache-status"),
        ({"x-portkey-cache-status": "SEMANTIC HIT"}, "x-portkey-cache-status"),
        ({"x-cache": "TCP_HIT from squid"}, "x-cache"),
        ({"x-cache": "TCP_MEM_HIT from a1.akamai"}, "x-cache"),
        ({"x-cache-status": "STALE"}, "x-cache-status"),
        ({"cf-cache-status": "UPDATING"}, "cf-cache-status"),
        ({"x-proxy-cache": "Revalidated"}, "x-proxy-cache"),
        ({"age": "12"}, "age"),
        ({"x-cache-hits": "0, 3"}, "x-cache-hits"),
        ({"x-from-cache": "1"}, "x-from-cache"),
        ({"age": "0"}, ""),
        ({"x-cache": "TCP_MISS from squid"}, ""),
        ({"x-cache-status": "EXPIRED"}, ""),
        ({"cache-status": "edge; fwd=stale; fwd-status=200"}, ""),
        ({"x-cache": "white elephant"}, ""),
        ({"x-portkey-cache-status": "MISS"}, ""),
        ({"x-portkey-cache-status": "DISABLED"}, ""),
        ({"cf-cache-status": "DYNAMIC"}, ""),
        ({"cf-aig-cache-status": "MISS"}, ""),
        ({"cache-status": "edge; fwd=uri-miss"}, ""),
        ({"x-cache": "Miss from cloudfront"}, ""),
        ({"x-cache-hits": "0"}, ""),
        ({"x-cache-hit": "false"}, ""),
        ({"cache-control": "no-cache, no-store"}, ""),
        ({"x-prompt-cache": "hit"}, ""),
        ({"fireworks-cached-prompt-tokens": "12"}, ""),
        ({"x-litellm-version": "1"}, ""),
    ],
)
def test_what_tells_of_a_cache(headers: dict[str, str], sign: str) -> None:
    found = from_cache(headers, {})
    assert found.split(":")[0] == sign


def test_bifrost_tells_of_its_cache_in_the_body() -> None:
    assert from_cache({}, {"extra_fields": {"cache_debug": {"cache_hit": True}}})
    assert not from_cache({}, {"extra_fields": {"cache_debug": {"cache_hit": False}}})
    assert not from_cache({}, {"extra_fields": None})


def test_a_server_without_a_gateway_has_none() -> None:
    assert gateway_of({"server": "uvicorn", "x-request-id": "1"}) is None
