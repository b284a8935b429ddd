"""The kind `openai` with `method: votes` or `verbalised`, against a server with a chat API that shows no logprobs."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import httpx
import pytest

from distill.teachers import TeacherError, create
from tests.support.script import Script

LABELS = ("billing", "refund", "shipping")
PRICE = {"input": 1, "output": 4}


def said(content: str | None, **choice: Any) -> httpx.Response:
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": 100, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 60}}
    return httpx.Response(
        200, json={"choices": [{"message": message, "finish_reason": "stop"} | choice], "usage": usage}
    )


def refused(name: str) -> httpx.Response:
    message = f"Unsupported parameter: '{name}' is not supported with this model."
    return httpx.Response(400, json={"error": {"message": message}})


REFUND = said('{"label": "Refund"}')


@pytest.fixture
async def server(serve) -> Script:
    script = Script(REFUND)
    script.url = f"{await serve(script)}/v1"
    return script


def teacher(server: Script, **settings: Any) -> aclosing[Any]:
    given = {"kind": "openai", "base_url": server.url, "model": "m", "usd_per_million": PRICE}
    return aclosing(create({**given, "method": "votes", "samples": 3, **settings}, LABELS))


async def test_votes_are_asked_for_by_schema_at_temperature_one_and_without_logprobs(server) -> None:
    async with teacher(server, extra_body={"seed": 1}) as asked:
        (answer,) = await asked.ask(["odd"])
    assert answer.method == "votes"
    assert answer.probabilities == pytest.approx([0.5 / 3 / 3.5, (3 + 0.5 / 3) / 3.5, 0.5 / 3 / 3.5])
    assert answer.cost_usd == pytest.approx(3 * (100 + 8 * 4) / 1e6)
    body = server.asked[-1]
    assert set(body) == {"model", "messages", "max_tokens", "temperature", "response_format", "seed"}
    assert body["temperature"] == 1
    assert body["response_format"]["json_schema"]["strict"] is True
    assert body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == list(LABELS)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


async def test_a_ranking_is_read_as_one(server) -> None:
    server.replies = [said('{"ranking": [{"label": "refund", "confidence": 0.8}]}')]
    async with teacher(server, method="verbalised") as asked:
        (answer,) = await asked.ask(["odd"])
    assert (answer.method, answer.covered) == ("verbalised", pytest.approx(0.8))
    assert answer.probabilities == pytest.approx([0.1, 0.8, 0.1])


async def test_the_limit_of_an_answer_has_the_name_that_the_server_takes(server) -> None:
    server.replies = [lambda body: refused("max_tokens") if "max_tokens" in body else REFUND]
    async with teacher(server) as asked:
        (answer,) = await asked.ask(["odd"])
        assert [request.body["max_completion_tokens"] for _, request in await asked.plan("odd")]
    assert answer.outcome == "ok"
    assert sum("max_tokens" in body for body in server.asked) == 1


async def test_another_refusal_of_a_request_is_told(server) -> None:
    server.replies = [refused("response_format")]
    async with teacher(server) as asked:
        with pytest.raises(TeacherError, match="response_format"):
            await asked.ask(["odd"])
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (said(None, message={"content": None, "refusal": "I cannot"}), "refused"),
        (said("", finish_reason="content_filter"), "refused"),
        (said(None, finish_reason="length"), "invalid"),
        (said("It may be billing or a refund"), "invalid"),
    ],
)
async def test_refusals_and_answers_without_a_label_are_outcomes_that_cost(server, reply, outcome) -> None:
    async with teacher(server) as asked:
        await asked.prepare()
        server.replies = [reply]
        (answer,) = await asked.ask(["odd"])
    assert (answer.outcome, answer.probabilities) == (outcome, None)
    assert answer.cost_usd > 0


async def test_a_model_that_reasons_first_is_told_to_need_room_and_has_it_when_given(server) -> None:
    server.replies = [lambda body: said(None, finish_reason="length") if body["max_tokens"] < 1000 else REFUND]
    async with teacher(server) as asked:
        with pytest.raises(TeacherError, match="max_output_tokens: raise that"):
            await asked.ask(["odd"])
    async with teacher(server, max_output_tokens=2000) as asked:
        (answer,) = await asked.ask(["odd"])
        ((api, request), *_) = await asked.plan("odd")
        assert api.max_cost(request) > 2000 * 4 / 1e6
    assert answer.outcome == "ok"


async def test_what_is_no_chat_completion_is_told(server) -> None:
    server.replies = [httpx.Response(200, json={"content": []})]
    async with teacher(server) as asked:
        with pytest.raises(TeacherError, match="no chat completion"):
            await asked.ask(["odd"])


async def test_examples_that_are_nearest_stand_before_the_text_and_the_others_in_the_system_message(
    server, tmp_path, write_csv
) -> None:
    path = write_csv(tmp_path / "near.csv", [("give me my money back", "refund"), ("where is my parcel", "shipping")])
    prompt = {
        "examples": [["what is this charge", "billing"]],
        "nearest": {"data": {"path": str(path), "label": "label"}, "k": 1},
    }
    async with teacher(server, prompt=prompt) as asked:
        await asked.ask(["my money, please"])
    system, user = (message["content"] for message in server.asked[-1]["messages"])
    assert "what is this charge\n</text>\nCategory: billing" in system
    assert user == ("<text>\ngive me my money back\n</text>\nCategory: refund\n\n<text>\nmy money, please\n</text>")


def test_groups_are_for_codes() -> None:
    given = {"kind": "openai", "base_url": "http://localhost:1/v1", "model": "m", "usd_per_million": PRICE}
    with pytest.raises(TeacherError, match="groups need `method: logprobs`"):
        create({**given, "method": "votes", "groups": {"x": ["billing", "refund"], "y": ["shipping"]}}, LABELS)


async def test_more_labels_than_there_are_codes_may_be_voted_for() -> None:
    given = {"kind": "openai", "base_url": "http://localhost:1/v1", "model": "m", "usd_per_million": PRICE}
    made: Any = create({**given, "method": "votes"}, [f"label {number}" for number in range(1200)])
    assert len(await made.plan("odd")) == 8
    await made.aclose()
