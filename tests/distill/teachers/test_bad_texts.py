"""One text that a server will not take, or gives no answer to, is that text's outcome and not the run's end."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import httpx
import numpy as np
import pytest

from distill.data.splits import Examples
from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.labelling.dry_run import DryRunAccount, dry_run
from distill.labelling.label import MOST_ALIKE, label
from distill.teachers import TeacherError
from distill.teachers.account import NoAccount
from distill.teachers.anthropic import AnthropicConfig, AnthropicTeacher
from distill.teachers.base import Answer
from distill.teachers.ensemble import EnsembleConfig, EnsembleTeacher
from distill.teachers.openai import OpenAIConfig, OpenAITeacher

LABELS = ("billing", "refund", "shipping")
PRICE = {"input": 1, "output": 4}
COST = (100 + 4) / 1e6
USAGE = {"prompt_tokens": 100, "completion_tokens": 1, "input_tokens": 100, "output_tokens": 1}

FILTERED = (400, {"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}})
TOO_LONG = (400, {"error": {"code": "context_length_exceeded", "message": "maximum context length is 8 tokens"}})
UNKNOWN = (400, {"error": {"message": "I did not like that"}})

Reply = tuple[int, Any]


def answered(text: str, kind: str) -> dict[str, Any]:
    """A good response: sure of the label that the text begins with."""
    name = text.split(" ")[0] if text.split(" ")[0] in LABELS else "billing"
    if kind == "anthropic":
        content = [{"type": "text", "text": json.dumps({"label": name})}]
        return {"type": "message", "content": content, "stop_reason": "end_turn", "usage": USAGE}
    listed = [{"token": "ABC"[LABELS.index(name)], "logprob": math.log(0.9)}, {"token": "The", "logprob": -3.0}]
    message = {"role": "assistant", "content": json.dumps({"label": name})}
    choice = {"message": message, "logprobs": {"content": [{**listed[0], "top_logprobs": listed}]}}
    return {"choices": [{**choice, "finish_reason": "length"}], "usage": USAGE}


class Server:
    """Answers every text well but those in `bad`, which have replies of their own, the last for good."""

    def __init__(self, **bad: Reply | list[Reply]) -> None:
        self.bad = {name: list(replies) if isinstance(replies, list) else [replies] for name, replies in bad.items()}
        self.asked: Counter[str] = Counter()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        text = json.loads(request.content)["messages"][-1]["content"].split("\n")[1]
        self.asked[text] += 1
        kind = "anthropic" if request.url.path.endswith("/messages") else "openai"
        replies = self.bad.get(text.split(" ")[0]) or self.bad.get("every", [])
        status, body = (replies.pop(0) if len(replies) > 1 else replies[0]) if replies else (200, answered(text, kind))
        return httpx.Response(status, content=body if isinstance(body, bytes) else json.dumps(body).encode())


KINDS = ("logprobs", "votes", "anthropic")


def make(kind: str, server: Server, account: Any = None, **more: Any) -> Any:
    given = {"base_url": "http://localhost/v1", "model": "m", "usd_per_million": PRICE, "samples": 2, **more}
    transport = httpx.MockTransport(server)
    if kind == "anthropic":
        return AnthropicTeacher(AnthropicConfig(**given), LABELS, account or NoAccount(), transport=transport)
    own = {"permutations": 1} if kind == "logprobs" else {"method": "votes"}
    return OpenAITeacher(OpenAIConfig(**given, **own), LABELS, account or NoAccount(), transport=transport)


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr("distill.teachers.api.http._pause", lambda state: 0.0)


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return str(request.param)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


async def ask(kind: str, server: Server, *texts: str, **more: Any) -> list[Answer]:
    made = make(kind, server, **more)
    try:
        return [(await made.ask([text]))[0] for text in texts]
    finally:
        await made.aclose()


def examples(*texts: str) -> Examples:
    return Examples(tuple(f"train-{index}" for index in range(len(texts))), texts, (None,) * len(texts))


async def run(kind: str, server: Server, path, *texts: str, **more: Any) -> Any:
    """Label texts in a store, as one process would, and say what was spent."""
    with AnswerStore(path) as store:
        book = StoredAccount(store)
        made = make(kind, server, book, **more)
        try:
            return await label(made, examples(*texts), store), book.spent
        finally:
            await made.aclose()


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (FILTERED, "refused"),
        (TOO_LONG, "invalid"),
        ((413, b"<html>413 Request Entity Too Large</html>"), "invalid"),
        ((422, {"detail": [{"loc": ["body", "messages"], "msg": "too long", "type": "string_too_long"}]}), "invalid"),
        (
            (403, {"error": {"code": 403, "message": "your input was flagged", "metadata": {"reasons": ["x"]}}}),
            "refused",
        ),
        (UNKNOWN, "invalid"),
        ((422, b""), "invalid"),
        ((403, b"<html>Sorry, you have been blocked</html>"), "invalid"),
        ((403, {"message": "Forbidden"}), "invalid"),
        ((406, b"Not Acceptable"), "invalid"),
        ((424, {"error": {"message": "Request failed during generation"}}), "invalid"),
        ((500, {"error": {"message": "Internal server error"}}), "invalid"),
        ((502, b"<html>bad gateway</html>"), "invalid"),
        ((503, b"no healthy upstream"), "invalid"),
        ((504, b""), "invalid"),
        ((529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}), "invalid"),
        ((200, b"<html>Sorry, you have been blocked</html>"), "invalid"),
        ((200, b"[]"), "invalid"),
        ((200, b'"' + bytes(5 * 2**20) + b'"'), "invalid"),
        ((200, {"error": {"code": 400, "message": "maximum context length is 8 tokens"}}), "invalid"),
        ((200, {"choices": [{"error": {"code": 403, "message": "flagged by moderation"}}]}), "refused"),
    ],
)
async def test_a_rejection_is_the_texts_outcome_in_every_method(kind, path, reply, outcome) -> None:
    server = Server(bad=reply)
    texts = ("refund 1", "bad one", "shipping 2")
    labelled, spent = await run(kind, server, path, *texts)
    assert (labelled.refused, labelled.invalid) == ((1, 0) if outcome == "refused" else (0, 1))
    assert labelled.soft.texts == ("refund 1", "shipping 2")
    assert labelled.unlabelled[0].startswith(f"train-1 {outcome}")
    asked = server.asked["bad one"]
    again, spent_then = await run(kind, server, path, *texts)
    assert (again.asked, again.unlabelled, spent_then) == (0, labelled.unlabelled, spent)
    assert server.asked["bad one"] == asked


async def test_a_rejection_is_paid_as_it_was_billed(kind) -> None:
    calls = 1 if kind == "logprobs" else 2
    billed, free = await ask(
        kind, Server(bad=(400, {**FILTERED[1], "usage": USAGE}), free=FILTERED), "bad one", "free one"
    )
    assert (billed.outcome, billed.cost_usd) == ("refused", pytest.approx(calls * COST))
    assert (free.outcome, free.cost_usd) == ("refused", 0.0)


async def test_a_call_that_was_rejected_is_not_made_again_for_another_store(kind, path) -> None:
    server = Server(bad=FILTERED)
    with AnswerStore(path) as store:
        made = make(kind, server, StoredAccount(store))
        await made.ask(["bad one"])
        assert await made.plan("bad one") == []
        await made.aclose()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((400, {"error": {"message": "Your credit balance is too low"}}), "no money left"),
        ((402, {"error": {"message": "Insufficient Balance"}}), "no money left"),
        ((401, {"error": {"message": "bad key"}}), "refuses the key"),
        ((403, {"error": {"message": "Your account is not allowed this"}}), "refuses the key"),
        ((404, {"error": {"message": "no such model"}}), "404: no such model"),
        ((200, {"error": {"code": 402, "message": "out of credits"}}), "no money left"),
        ((400, {"error": {"message": "odd", "code": "unsupported_parameter"}}), "400: odd"),
    ],
)
async def test_what_would_meet_every_text_ends_the_run(kind, path, reply, said) -> None:
    with pytest.raises(TeacherError, match=said):
        await run(kind, Server(bad=reply), path, "refund 1", "bad one", "shipping 2")


@pytest.mark.parametrize("failure", [httpx.ReadTimeout("late"), httpx.RemoteProtocolError("gone")])
async def test_a_text_on_which_a_server_fails_each_time_is_invalid_and_asked_for_in_two_rounds(
    kind, path, failure
) -> None:
    class Failing(Server):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            response = super().__call__(request)
            if b"bad one" in request.content:
                raise failure
            return response

    server = Failing()
    labelled, _ = await run(kind, server, path, "refund 1", "bad one", "shipping 2", attempts=3)
    assert (labelled.invalid, labelled.unlabelled[0].split(":")[0]) == (1, "train-1 invalid")
    assert server.asked["bad one"] == 2 * 3 * (1 if kind == "logprobs" else 2)


async def test_a_text_that_met_an_outage_is_labelled_once_that_is_over(path) -> None:
    trouble = (500, {"error": {"message": "no"}})
    server = Server(bad=[trouble, trouble, (200, answered("refund", "openai"))])
    labelled, _ = await run("logprobs", server, path, "bad one", attempts=2)
    assert labelled.soft.texts == ("bad one",)


async def test_an_outage_ends_the_run_and_many_that_meet_it_find_that_out_once(kind) -> None:
    server = Server()
    made = make(kind, server, attempts=2)
    await made.prepare()
    probes = server.asked["billing"]
    server.bad = {"every": [(500, {"error": {"message": "down"}})]}
    with pytest.raises(TeacherError, match="500: down"):
        await made.ask([f"refund {number}" for number in range(6)])
    await made.aclose()
    assert server.asked["billing"] - probes == 2


@pytest.mark.parametrize("reply", [FILTERED, TOO_LONG, UNKNOWN, (413, b""), (502, b"")])
async def test_the_probes_end_the_run_whatever_they_meet(kind, path, reply) -> None:
    with pytest.raises(TeacherError, match=str(reply[0])):
        await run(kind, Server(every=reply), path, "refund 1")


async def test_what_no_text_is_answered_with_any_more_ends_the_run_and_is_nobodys_outcome(kind, path) -> None:
    server = Server()
    made = make(kind, server, concurrency=1)
    await made.prepare()
    server.bad = {"every": [UNKNOWN]}
    with pytest.raises(TeacherError, match="400: I did not like that"):
        await made.ask(["refund 1"])
    await made.aclose()


async def test_a_forecast_knows_that_rejected_texts_are_answered_and_learns_nothing_from_them(kind, path) -> None:
    texts = [f"refund {number}" for number in range(12)]
    server = Server(bad=TOO_LONG, odd=UNKNOWN)
    await run(kind, server, path, *texts, "bad " + "long " * 400, "odd " + "long " * 400)
    with AnswerStore(path) as store:
        ledger = DryRunAccount(StoredAccount(store))
        made = make(kind, server, ledger)
        foreseen = await dry_run(
            made, [(text, 0) for text in (*texts, "bad " + "long " * 400, "refund x")], store, ledger
        )
        none = await dry_run(made, [(text, 0) for text in (*texts, "odd " + "long " * 400)], store, ledger)
        await made.aclose()
    assert (foreseen.to_ask, foreseen.learnt_from) == (1, len(texts))
    assert (none.to_ask, none.most_usd) == (0, 0)


async def test_many_texts_rejected_alike_end_the_run_and_are_asked_again(kind, path) -> None:
    bad = [f"bad {number}" for number in range(MOST_ALIKE)]
    with pytest.raises(TeacherError, match=r"^train-\d+: .*rejected 20 texts.*I did not like that"):
        await run(kind, Server(bad=UNKNOWN), path, *bad, concurrency=1)
    labelled, _ = await run(kind, Server(), path, *bad, concurrency=1)
    assert len(labelled.soft) == MOST_ALIKE
    fewer = [f"worse {number}" for number in range(MOST_ALIKE - 1)]
    labelled, _ = await run(kind, Server(worse=UNKNOWN), path, *fewer, "refund 1", concurrency=1)
    assert labelled.invalid == MOST_ALIKE - 1


async def test_texts_that_are_said_to_be_at_fault_never_end_the_run(kind, path) -> None:
    bad = [f"bad {number}" for number in range(2 * MOST_ALIKE)]
    labelled, _ = await run(kind, Server(bad=TOO_LONG), path, *bad, "refund 1", concurrency=1)
    assert labelled.invalid == 2 * MOST_ALIKE


async def test_a_pool_without_a_label_says_what_the_server_said(kind, path) -> None:
    with pytest.raises(Exception, match=r"none of 1 texts.*train-0 invalid: maximum context length is 8"):
        await run(kind, Server(bad=TOO_LONG), path, "bad one")


CHAT = [
    {"choices": []},
    {"choices": None, "usage": USAGE},
    {"choices": [{"message": None, "finish_reason": "error"}]},
    {"choices": [{"message": {"content": "A"}, "finish_reason": "error"}], "usage": USAGE},
    {"error": {"code": 502, "message": "Provider returned error"}},
    {"choices": [{"error": {"code": 503, "message": "busy"}, "message": {"content": ""}}]},
    {"error": "upstream"},
]


@pytest.mark.parametrize("body", CHAT)
@pytest.mark.parametrize("kind", ["logprobs", "votes"])
async def test_a_servers_trouble_in_a_response_of_200_is_asked_again(kind, body) -> None:
    (answer,) = await ask(
        kind, Server(refund=[(200, body), (200, body), (200, answered("refund", "openai"))]), "refund 1"
    )
    assert answer.outcome == "ok"
    probing = Server(every=[(200, body), (200, answered("billing", "openai"))])
    assert (await ask(kind, probing, "billing 1"))[0].outcome == "ok"


NONE = {"role": "assistant", "content": ""}
ODD = {"token": "A", "logprob": None}
WITHOUT = [
    {"choices": [{"message": NONE, "finish_reason": "length", "logprobs": None}]},
    {"choices": [{"message": NONE, "finish_reason": "length"}]},
    {"choices": [{"message": NONE, "logprobs": {"content": None}}]},
    {"choices": [{"message": NONE, "logprobs": {"content": [{**ODD, "top_logprobs": [ODD]}]}}]},
    {"choices": [{"message": NONE, "logprobs": {"content": [{**ODD, "top_logprobs": []}]}}]},
    {"choices": []},
    {"id": "x"},
]


@pytest.mark.parametrize("body", WITHOUT)
async def test_an_answer_without_logprobs_is_that_texts_alone_once_others_had_them(path, body) -> None:
    server = Server(bad=(200, {**body, "usage": USAGE}))
    labelled, spent = await run("logprobs", server, path, "refund 1", "bad one", "shipping 2", concurrency=1)
    assert labelled.invalid == 1
    assert "no answer that can be read" in labelled.unlabelled[0]
    assert server.asked["bad one"] == 3
    control = server.asked["billing"] - 1
    assert spent == pytest.approx((len(LABELS) + 2 + 3 + control) * COST)


@pytest.mark.parametrize("body", WITHOUT)
async def test_a_model_that_stops_showing_logprobs_is_not_said_to_have_none(body) -> None:
    server = Server()
    made = make("logprobs", server)
    await made.ask(["refund 1"])
    server.bad = {"every": [(200, body)]}
    with pytest.raises(TeacherError, match="gave readable answers before, and gives none now"):
        await made.ask(["refund 2"])
    await made.aclose()


async def test_one_answer_without_logprobs_is_asked_for_once_more(path) -> None:
    server = Server(bad=[(200, WITHOUT[0]), (200, answered("refund", "openai"))])
    labelled, _ = await run("logprobs", server, path, "bad one")
    assert labelled.soft.probabilities[0].argmax() == 1


@pytest.mark.parametrize(
    "choice",
    [
        {"finish_reason": "content_filter", "message": NONE},
        {"finish_reason": "content_filter: PROHIBITED_CONTENT"},
        {"finish_reason": "SAFETY", "message": NONE, "logprobs": None},
        {"finish_reason": "stop", "message": {"content": None, "refusal": "I cannot"}},
    ],
)
@pytest.mark.parametrize("kind", ["logprobs", "votes"])
async def test_an_answer_that_was_filtered_is_a_refusal_that_costs(kind, choice) -> None:
    (answer,) = await ask(kind, Server(bad=(200, {"choices": [choice], "usage": USAGE})), "bad one")
    assert (answer.outcome, answer.cost_usd > 0) == ("refused", True)


async def test_the_content_of_a_message_may_be_a_list_of_parts() -> None:
    parts = [
        {"type": "thinking", "thinking": "billing?"},
        {"type": "text", "text": '```json\n{"label": "refund"}\n```'},
    ]
    message = {"role": "assistant", "content": parts}
    (answer,) = await ask("votes", Server(bad=(200, {"choices": [{"message": message}], "usage": USAGE})), "bad one")
    assert int(np.argmax(answer.probabilities)) == 1


async def test_an_error_in_the_place_of_a_message_is_asked_again() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    replies = [(200, error), (200, error), (200, answered("refund", "anthropic"))]
    (answer,) = await ask("anthropic", Server(bad=replies), "bad one")
    assert answer.outcome == "ok"


@pytest.mark.parametrize("body", [{"type": "message", "content": None}, {"type": "message", "stop_reason": "end_turn"}])
async def test_a_message_without_content_is_asked_for_again_and_then_that_texts(path, body) -> None:
    server = Server(bad=(200, {**body, "usage": USAGE}))
    labelled, _ = await run("anthropic", server, path, "refund 1", "bad one")
    assert labelled.invalid == 1
    assert server.asked["bad one"] == 2 * 3


@pytest.mark.parametrize(("quorum", "outcome"), [(0.5, "ok"), (1.0, "refused")])
async def test_the_quorum_of_an_ensemble_counts_the_members_that_took_the_text(quorum, outcome) -> None:
    config = EnsembleConfig(members=[{"teacher": {"kind": "recorded", "logits": "x", "recordings": [RECORDING]}}] * 2)
    members = [make("logprobs", Server(bad=FILTERED)), make("votes", Server())]
    made = EnsembleTeacher(config.model_copy(update={"quorum": quorum}), LABELS, members)
    (answer,) = await made.ask(["bad one"])
    await made.aclose()
    assert answer.outcome == outcome
    assert bool(answer.reason) == (outcome != "ok")


RECORDING = {"array": "a", "rows": {"path": "x.csv"}}


async def test_a_rejection_within_a_group_is_the_texts_outcome() -> None:
    server = Server()
    groups = {"money": ["billing", "refund"], "parcels": ["shipping"]}
    made = make("logprobs", server, groups=groups, epsilon=0.0)
    await made.prepare()
    server.bad = {"bad": [(200, answered("billing", "openai")), TOO_LONG]}
    (answer,) = await made.ask(["bad one"])
    await made.aclose()
    assert (answer.outcome, answer.method) == ("invalid", "two_step")
    assert answer.cost_usd == pytest.approx(COST)
