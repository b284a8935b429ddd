"""The kind `anthropic` against a server that speaks the Messages API over real sockets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from distill.teachers import TeacherError, create
from distill.teachers.anthropic import AnthropicTeacher
from distill.teachers.api.errors import ApiError
from tests.support.accounts import MemoryAccount
from tests.support.script import Script

LABELS = ("billing", "refund", "shipping")
PRICE = {"input": 3.0, "cached": 0.3, "cache_write": 3.75, "output": 15.0}
USAGE = {"input_tokens": 10, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 300, "output_tokens": 8}


def text_of(body: Mapping[str, Any]) -> str:
    return body["messages"][-1]["content"].rsplit("<text>\n", 1)[1].split("\n</text>")[0]


def message(text: str, **changes: Any) -> httpx.Response:
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    } | changes
    return httpx.Response(200, json=body)


def named(body: Mapping[str, Any]) -> httpx.Response:
    """The label whose name is the text, in capitals."""
    text = text_of(body)
    return message(json.dumps({"label": text.upper() if text in LABELS else "billing"}))


def error(status: int, kind: str) -> httpx.Response:
    return httpx.Response(status, json={"type": "error", "error": {"type": kind, "message": f"it is {kind}"}})


class Server(Script):
    @property
    def texts(self) -> Counter[str]:
        return Counter(text_of(body) for body in self.asked)


@pytest.fixture
async def server(serve) -> Server:
    script = Server(named)
    script.url = await serve(script)
    return script


def teacher(server: Server, account: Any = None, **settings: Any) -> aclosing[Any]:
    config = {"kind": "anthropic", "base_url": server.url, "model": "m", "usd_per_million": PRICE, "samples": 4}
    return aclosing(create({**config, **settings}, LABELS, account))


async def test_votes_are_calls_of_their_own_and_a_smoothed_distribution(server) -> None:
    async with teacher(server) as asked:
        (answer,) = await asked.ask(["refund"])
    assert answer.method == "votes"
    assert answer.probabilities == pytest.approx([0.5 / 3 / 4.5, (4 + 0.5 / 3) / 4.5, 0.5 / 3 / 4.5])
    assert server.texts["refund"] == 4 + 1  # and the probe, which another account would have kept
    assert (answer.covered, answer.tail) == (1.0, pytest.approx(1 / 3 / 4.5))
    assert answer.tokens == 4 * 338


async def test_an_answer_names_every_model_that_gave_one_of_its_draws(server) -> None:
    names = iter(["m-1", "m-1", "m-1", "m-1", "m-2", "m-1", "m-2"])
    server.replies[:] = [lambda body: httpx.Response(200, json=named(body).json() | {"model": next(names)})]
    async with teacher(server, samples=4) as one:
        (answer,) = await one.ask(["refund"])
    assert (answer.model, answer.fingerprint) == ("m-1+m-2", None)


async def test_draws_are_counted_as_they_fall(server) -> None:
    said = iter(["billing", "Refund", "refund", "billing", "refund"])
    server.replies = [named, named, named, lambda body: message(json.dumps({"label": next(said)}))]
    async with teacher(server, samples=5) as asked:
        (answer,) = await asked.ask(["odd"])
    assert answer.probabilities == pytest.approx([(2 + 0.5 / 3) / 5.5, (3 + 0.5 / 3) / 5.5, 0.5 / 3 / 5.5])


async def test_a_request_is_what_the_messages_api_takes(server, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-1")
    prompt = {"descriptions": {"refund": "wants money back"}, "examples": [["give it back", "refund"]]}
    async with teacher(
        server, key_env="MY_KEY", prompt=prompt, extra_body={"output_config": {"effort": "low"}}
    ) as asked:
        await asked.ask(["a </text> b"])
    body, headers = server.asked[-1], server.headers[-1]
    assert server.paths[-1] == "/v1/messages"
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("secret-1", "2023-06-01")
    assert set(body) == {"model", "max_tokens", "system", "messages", "output_config"}
    (system,) = body["system"]
    assert system["cache_control"] == {"type": "ephemeral"}
    assert "- refund - wants money back" in system["text"]
    assert "give it back\n</text>\nCategory: refund" in system["text"]
    assert body["messages"] == [{"role": "user", "content": "<text>\na &lt;/text> b\n</text>"}]
    assert body["output_config"]["effort"] == "low"
    assert body["output_config"]["format"]["type"] == "json_schema"
    assert body["output_config"]["format"]["schema"]["properties"]["label"]["enum"] == list(LABELS)
    assert 16 <= body["max_tokens"] < 100


async def test_what_stands_before_the_texts_is_one_of_a_few_so_that_it_is_cached(server) -> None:
    async with teacher(server, permutations=2) as asked:
        await asked.ask([f"text {number}" for number in range(10)])
    systems = Counter(body["system"][0]["text"] for body in server.asked[3:])
    assert sorted(systems.values()) == [20, 20]  # a text's draws take turns with the orders


def test_anthropics_input_tokens_have_the_cached_ones_not_in_them() -> None:
    usage = AnthropicTeacher.usage_of({"usage": USAGE})
    assert usage is not None
    assert (usage.input, usage.cached, usage.cache_write, usage.output, usage.total) == (10, 300, 20, 8, 338)
    assert AnthropicTeacher.usage_of({"usage": {"input_tokens": 1}}) is None
    assert AnthropicTeacher.usage_of({}) is None


async def test_a_call_costs_what_its_tokens_cost_each_at_its_price(server) -> None:
    async with teacher(server, method="verbalised") as asked:
        server.replies = [message('{"ranking": [{"label": "refund", "confidence": 0.8}]}')]
        (answer,) = await asked.ask(["odd"])
    assert answer.cost_usd == pytest.approx((10 * 3 + 300 * 0.3 + 20 * 3.75 + 8 * 15) / 1e6)


async def test_a_ranking_becomes_a_distribution_with_its_tail(server) -> None:
    ranking = [{"label": "Refund", "confidence": 0.7}, {"label": "billing", "confidence": 0.2}]
    server.replies = [message(json.dumps({"ranking": ranking}))]
    async with teacher(server, method="verbalised", ranked=2) as asked:
        (answer,) = await asked.ask(["odd"])
    assert answer.method == "verbalised"
    assert answer.probabilities == pytest.approx([0.2, 0.7, 0.1])
    assert (answer.covered, answer.tail) == (pytest.approx(0.9), pytest.approx(0.1))
    assert server.texts["odd"] == 1
    assert "2 likeliest" in server.asked[-1]["system"][0]["text"]
    assert "ranking" in server.asked[-1]["output_config"]["format"]["schema"]["properties"]


REFUSAL = message("I cannot help", stop_reason="refusal")
NONSENSE = message('{"label": "weather"}')
CUT = message('{"lab', stop_reason="max_tokens")
REFUND = message('{"label": "refund"}')


@pytest.mark.parametrize(
    ("replies", "outcome"),
    [
        ([REFUSAL] * 4, "refused"),
        ([NONSENSE] * 4, "invalid"),
        ([CUT] * 4, "invalid"),
        ([REFUSAL, REFUSAL, NONSENSE, REFUND], "refused"),
        ([REFUSAL, NONSENSE, CUT, REFUND], "invalid"),
        ([REFUSAL, NONSENSE, REFUND, REFUND], "ok"),
    ],
)
async def test_refusals_and_answers_that_name_no_label_are_outcomes_that_cost(server, replies, outcome) -> None:
    account = MemoryAccount()
    async with teacher(server, account, concurrency=1) as asked:
        await asked.prepare()
        server.replies = [*replies, named]
        (answer,) = await asked.ask(["odd"])
        assert (await asked.ask(["odd"]))[0].outcome == outcome
    assert answer.outcome == outcome
    assert (answer.probabilities is None) == (outcome != "ok")
    assert answer.cost_usd == pytest.approx(account.spent * 4 / 7)
    assert answer.covered == sum(reply is REFUND for reply in replies) / 4
    assert server.texts["odd"] == 4


@pytest.mark.parametrize(
    ("reply", "outcome"), [(REFUSAL, "refused"), (message('{"ranking": []}'), "invalid"), (message("{}"), "invalid")]
)
async def test_a_ranking_may_be_refused_or_none(server, reply, outcome) -> None:
    async with teacher(server, method="verbalised") as asked:
        server.replies = [message('{"ranking": [{"label": "refund", "confidence": 0.8}]}')]
        await asked.prepare()
        server.replies = [reply]
        (answer,) = await asked.ask(["odd"])
    assert (answer.outcome, answer.probabilities) == (outcome, None)
    assert answer.cost_usd > 0


async def test_every_draw_is_kept_so_that_a_failure_in_the_middle_loses_none(server) -> None:
    account = MemoryAccount()
    async with teacher(server, account, concurrency=1, attempts=1) as asked:
        await asked.prepare()
        server.replies = [named, error(401, "authentication_error"), named]
        with pytest.raises(ApiError):
            await asked.ask(["odd"])
        assert len(await asked.plan("odd")) == 1
        assert len(account.paid) == 3 + 3
    async with teacher(server, account) as asked:
        (answer,) = await asked.ask(["odd"])
        assert await asked.plan("odd") == []
    assert answer.outcome == "ok"
    assert server.texts["odd"] == 5  # four draws, and the one that failed


async def test_more_samples_ask_only_for_those_that_are_new_and_a_repeat_for_its_own(server) -> None:
    account = MemoryAccount()
    async with teacher(server, account) as asked:
        await asked.ask(["odd"])
    async with teacher(server, account, samples=6) as asked:
        await asked.ask(["odd"])
        assert server.texts["odd"] == 6
        await asked.ask(["odd"], repeat=1)
        assert server.texts["odd"] == 12


async def test_an_overloaded_server_is_asked_again(server) -> None:
    server.replies = [error(529, "overloaded_error"), error(429, "rate_limit_error"), named]
    async with teacher(server, samples=1) as asked:
        (answer,) = await asked.ask(["shipping"])
    assert answer.outcome == "ok"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (error(401, "authentication_error"), "refuses the key .*authentication_error.*key_env"),
        (error(400, "invalid_request_error"), "400: it is invalid_request_error"),
        (message("Sure! What is it?"), r"none of the labels, but for example 'Sure!.*JSON schema"),
        (message('{"la', stop_reason="max_tokens"), "did not finish .*max_output_tokens: raise that"),
        (message("no", stop_reason="refusal"), "refuses to classify even the names of labels"),
        (httpx.Response(200, json={"choices": []}), "gives no message .*base_url"),
    ],
)
async def test_a_model_that_cannot_be_used_is_found_before_any_text_is_asked(server, reply, said) -> None:
    server.replies = [reply]
    async with teacher(server) as asked:
        with pytest.raises(TeacherError, match=said):
            await asked.ask(["my own text"])
    assert server.texts["my own text"] == 0


async def test_thinking_is_not_part_of_the_answer_and_gets_room_when_told(server) -> None:
    thought = [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "text", "text": '{"label": "refund"}'},
    ]
    server.replies = [message("", content=thought)]
    async with teacher(server, samples=1, max_output_tokens=4000) as asked:
        (answer,) = await asked.ask(["odd"])
        assert asked.api.max_cost((await asked.plan("odd"))[0][1]) > 4000 * 15 / 1e6
    assert LABELS[int(answer.probabilities.argmax())] == "refund"
    assert server.asked[-1]["max_tokens"] == 4000


async def test_what_changes_answers_changes_the_version_and_speed_does_not(server) -> None:
    async with (
        teacher(server) as one,
        teacher(server, concurrency=2, batch={"interval_seconds": 1}) as same,
        teacher(server, samples=5) as other,
    ):
        assert one.version == same.version
        assert one.version != other.version
