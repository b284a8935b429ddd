"""The teacher against a server that speaks OpenAI's protocol over real sockets and misbehaves when told to."""

from __future__ import annotations

import math
import socket
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from distill.teachers import TeacherError, create
from tests.support.script import Script
from tests.support.sockets import dead_address

LABELS = ("billing", "refund", "shipping")


def completion(top: dict[str, float], **choice: Any) -> httpx.Response:
    listed = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in top.items()]
    content = [{"token": listed[0]["token"], "logprob": listed[0]["logprob"], "top_logprobs": listed}] if listed else []
    choice = {
        "message": {"role": "assistant", "content": "A"},
        "logprobs": {"content": content},
        "finish_reason": "length",
        **choice,
    }
    tokens = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
    usage = {**tokens, "prompt_tokens_details": {"cached_tokens": 60}}
    return httpx.Response(200, json={"choices": [choice], "usage": usage})


def sure(body: dict[str, Any]) -> httpx.Response:
    """Nearly sure of the label whose name is the text."""
    system, text = body["messages"][0]["content"], body["messages"][-1]["content"]
    code_of = {line.split(": ")[1]: line.split(": ")[0] for line in system.splitlines() if ": " in line[:5]}
    label = text.splitlines()[1]
    return completion({code_of.get(label, "A"): 0.9, "The": 0.05})


class Server(Script):
    @property
    def texts(self) -> list[str]:
        return [request["messages"][-1]["content"].splitlines()[1] for request in self.asked]


@pytest.fixture
async def server(serve) -> Server:
    script = Server(sure)
    script.url = f"{await serve(script)}/v1"
    return script


def teacher(server: Server, **settings: Any) -> aclosing[Any]:
    config = {"kind": "openai", "base_url": server.url, "model": "m", "usd_per_million": {"input": 1, "output": 4}}
    return aclosing(create({**config, **settings}, LABELS))


async def test_answers_are_in_the_order_of_the_labels_whatever_codes_stand_for(server) -> None:
    async with teacher(server, permutations=6) as asked:
        texts = [*LABELS, *reversed(LABELS)]
        answers = await asked.ask(texts)
    assert [LABELS[int(answer.probabilities.argmax())] for answer in answers] == texts
    assert {answer.method for answer in answers} == {"logprobs_tail"}
    assert answers[0].covered == pytest.approx(0.9)
    assert answers[0].tail == pytest.approx(0.05)


async def test_an_answer_names_the_model_and_the_backend_that_gave_it(server) -> None:
    def stating(**facts: Any) -> Any:
        return lambda body: httpx.Response(200, json=sure(body).json() | facts)

    async with teacher(server, exact="never") as one:
        (answer,) = await one.ask(["refund"])
        assert (answer.model, answer.fingerprint) == (None, None)
        server.replies[:] = [stating(model="m-2026-01", system_fingerprint="fp_1")]
        (answer,) = await one.ask(["refund"])
        assert (answer.model, answer.fingerprint) == ("m-2026-01", "fp_1")
        server.replies[:] = [stating(model="m\n" + "x" * 500, system_fingerprint=7)]
        (answer,) = await one.ask(["refund"])
        assert (answer.model, answer.fingerprint) == ("m?" + "x" * 98, None)


async def test_a_repeat_of_as_many_as_there_are_orders_asks_the_very_same_question(server) -> None:
    async with teacher(server, exact="never", permutations=3) as one:
        await one.ask(["refund"])
        first = server.asked[-1]
        await one.ask(["refund"], 1)
        assert server.asked[-1] != first
        await one.ask(["refund"], one.orders)
        assert server.asked[-1] == first


async def test_a_call_costs_what_its_tokens_cost_cached_ones_apart(server) -> None:
    price = {"input": 1.0, "cached": 0.1, "output": 4.0}
    async with teacher(server, usd_per_million=price) as asked:
        (answer,) = await asked.ask(["billing"])
    assert answer.cost_usd == pytest.approx((40 * 1.0 + 60 * 0.1 + 1 * 4.0) / 1e6)
    assert answer.tokens == 101


async def test_the_key_comes_from_the_environment_and_is_sent(server, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-1")
    async with teacher(server, key_env="MY_KEY") as asked:
        await asked.ask(["billing"])
    assert server.headers[0]["authorization"] == "Bearer secret-1"
    assert "secret-1" not in repr(asked.__dict__["_config"])


@pytest.mark.parametrize(
    ("status", "headers", "content"),
    [
        (429, {"retry-after": "0"}, b'{"error": {"message": "slow down"}}'),
        (429, {"retry-after-ms": "5"}, b"{}"),
        (500, {"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=1))}, b"oops"),
        (503, {"retry-after": "0"}, b""),
        (400, {"x-should-retry": "true", "retry-after": "0"}, b"{}"),
        (200, {"content-type": "text/html"}, b"<html>"),
        (200, {"content-type": "application/json"}, b'{"choices": [{'),
    ],
)
async def test_what_may_pass_is_tried_again(server, status, headers, content) -> None:
    server.replies = [httpx.Response(status, headers=headers, content=content), sure]
    async with teacher(server) as asked:
        (answer,) = await asked.ask(["refund"])
    assert LABELS[int(answer.probabilities.argmax())] == "refund"


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        (httpx.Response(401, json={"error": {"message": "bad key"}}), "refuses the key .*bad key.*key_env"),
        (httpx.Response(429, json={"error": {"code": "insufficient_quota", "message": "no money"}}), "no money left"),
        (httpx.Response(404, json={"error": {"message": "no such model"}}), "404: no such model"),
        (httpx.Response(500, headers={"x-should-retry": "false"}, json={}), "500"),
    ],
)
async def test_what_will_not_pass_is_said_at_once(server, failing, said) -> None:
    server.replies = [failing]
    async with teacher(server) as asked:
        with pytest.raises(TeacherError, match=said):
            await asked.ask(["refund"])
    assert len(server.asked) == 1


async def test_a_server_that_hangs_is_given_up_after_its_attempts(server) -> None:
    async with teacher(server, timeout_seconds=0.05, attempts=2) as asked:
        with socket.socket() as deaf:  # accepts, and says nothing
            deaf.bind(("127.0.0.1", 0))
            deaf.listen()
            asked.api.client.base_url = httpx.URL(f"http://127.0.0.1:{deaf.getsockname()[1]}")
            with pytest.raises(TeacherError, match="did not answer in time") as failure:
                await asked.ask(["refund"])
    assert failure.value.retryable


async def test_a_server_that_is_down_is_named() -> None:
    server = Server()
    server.url = f"http://{dead_address()}/v1"
    async with teacher(server, attempts=1) as asked:
        with pytest.raises(TeacherError, match="cannot be reached"):
            await asked.ask(["refund"])


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (completion({"A": 0.9}, finish_reason="content_filter"), "refused"),
        (completion({"A": 0.9}, message={"content": None, "refusal": "I cannot"}), "refused"),
        (completion({"I": 0.8, "A": 0.1}), "invalid"),
    ],
)
async def test_refusals_and_other_answers_are_outcomes_that_cost_and_never_labels(server, reply, outcome) -> None:
    server.replies = [sure, sure, sure, reply]
    async with teacher(server) as asked:
        (answer,) = await asked.ask(["odd"])
    assert (answer.outcome, answer.probabilities) == (outcome, None)
    assert answer.cost_usd > 0


async def test_what_changes_answers_changes_the_version_and_speed_does_not(server) -> None:
    async with (
        teacher(server) as one,
        teacher(server, concurrency=2, attempts=2) as same,
        teacher(server, prompt={"instructions": "Sort it."}) as other,
    ):
        assert one.version == same.version
        assert one.version != other.version


def test_a_service_of_somebody_needs_its_terms_acknowledged() -> None:
    config = {"kind": "openai", "model": "m", "usd_per_million": {"input": 1, "output": 1}}
    with pytest.raises(TeacherError, match=r"api\.openai\.com.*terms"):
        create(config, LABELS)
    made = create({**config, "terms": {"acknowledged": True, "reference": "https://example.org/terms"}}, LABELS)
    assert made.name == "openai:m"


def test_a_prompt_that_names_other_labels_is_refused() -> None:
    config = {
        "kind": "openai",
        "base_url": "http://localhost:1",
        "model": "m",
        "usd_per_million": {"input": 0, "output": 0},
    }
    with pytest.raises(TeacherError, match="refunds"):
        create({**config, "prompt": {"descriptions": {"refunds": "money back"}}}, LABELS)
