"""The kind `decisions` against a server of both dialects over real sockets."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import httpx
import numpy as np
import pytest

from distill.teachers import TeacherError, create, parse
from distill.teachers.account import PaidResponse
from distill.teachers.api.errors import ApiError
from distill.teachers.decisions import DecisionsConfig
from tests.support.accounts import MemoryAccount
from tests.support.decision_server import DecisionServer, distribution
from tests.support.script import Script

LABELS = ("billing", "refund", "shipping")
PRICE = {"input": 0.1, "output": 0.0}
DIALECTS = ("openai", "systemone")


@pytest.fixture
async def server(serve) -> DecisionServer:
    made = DecisionServer()
    made.url = await serve(made)
    return made


def teacher(server: Any, dialect: str = "openai", account: Any = None, labels=LABELS, **settings: Any) -> Any:
    config = {"kind": "decisions", "dialect": dialect, "base_url": f"{server.url}/v1", "model": "m"}
    return aclosing(create({"usd_per_million": PRICE, **config, **settings}, labels, account))


def answer_of(response: dict[str, Any]) -> dict[str, Any]:
    """The first answer in a response of either dialect."""
    answers = response["answers"]
    return answers[0] if isinstance(answers, list) else next(iter(answers.values()))


def spoilt(text: str, change: Any) -> Any:
    """Change the answer to one text: calls are counted by their tokens, of which the text is the only source."""

    def spoil(response: dict[str, Any]) -> dict[str, Any]:
        if response["usage"]["input_tokens"] == len(text):
            change(answer_of(response))
        return response

    return spoil


def stated(answer: dict[str, Any]) -> dict[str, float]:
    found = answer["probabilities"]
    return found if isinstance(found, dict) else {entry["value"]: entry["probability"] for entry in found}


def state(answer: dict[str, Any], p: dict[str, Any]) -> None:
    entries = [{"value": value, "probability": one} for value, one in p.items()]
    answer["probabilities"] = p if isinstance(answer["probabilities"], dict) else entries


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_answer_is_the_distribution_that_the_server_states(server, dialect) -> None:
    prompt = {"instructions": "What is it about?"}
    async with teacher(server, dialect, prompt=prompt, permutations=4) as asked:
        answers = await asked.ask(["one text", "another text", "a third"])
    for text, answer in zip(["one text", "another text", "a third"], answers, strict=True):
        p = distribution(text, "What is it about?", LABELS)
        assert answer.probabilities == pytest.approx([p[label] for label in LABELS])
        assert answer.probabilities.dtype == np.float32
        assert (answer.method, answer.outcome, answer.model) == ("decisions", "ok", "tiny-1")
        assert (answer.covered, answer.tail) == (pytest.approx(1), 0.0)


async def test_a_request_is_what_each_dialect_takes(server, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-1")
    prompt = {"instructions": "Which?", "descriptions": {"refund": "wants money back"}}
    settings = {"prompt": prompt, "permutations": 1, "key_env": "MY_KEY"}
    for dialect in DIALECTS:
        async with teacher(server, dialect, **settings) as asked:
            await asked.ask(["give it back"])
    choices = [{"value": "billing"}, {"value": "refund", "description": "wants money back"}, {"value": "shipping"}]
    openai = {"type": "choice", "name": "label", "instructions": "Which?", "choices": choices}
    criteria = {"billing": None, "refund": "wants money back", "shipping": None}
    other = {"label": {"type": "choice", "instructions": "Which?", "criteria": criteria}}
    assert server.bodies[3] == {"model": "m", "input": "give it back", "questions": [openai]}
    assert server.bodies[7] == {"model": "m", "state": "give it back", "questions": other}
    assert server.headers[3]["authorization"] == "Bearer secret-1"


async def test_labels_are_listed_in_several_orders_and_a_repeat_takes_the_next(server) -> None:
    async with teacher(server, permutations=2) as asked:
        for repeat in range(3):
            await asked.ask(["a text"], repeat)
    listed = [[choice["value"] for choice in body["questions"][0]["choices"]] for body in server.bodies[3:]]
    assert listed[0] != listed[1]
    assert listed[0] == listed[2]
    assert sorted(listed[1]) == list(LABELS)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("change", "outcome", "reason"),
    [
        (lambda p: p.pop("refund"), "invalid", "no probability for 1 of 3 options: 'refund'"),
        (lambda p: p.update(refund=[]), "invalid", "no probability for 1 of 3 options: 'refund'"),
        (lambda p: p.update(refund=None), "invalid", "no probability for 1 of 3 options: 'refund'"),
        (lambda p: p.update(refund=1.5), "invalid", "no probability for 1 of 3 options: 'refund'"),
        (lambda p: p.update(billing=0.5, refund=0.2, shipping=0.0), "invalid", "the probabilities sum to 0.7 inst"),
        (lambda p: p.update(billing=1.0, refund=1.0), "invalid", "instead of 1"),
    ],
)
async def test_a_defective_distribution_is_invalid_and_paid_for_once(
    server, caplog, dialect, change, outcome, reason
) -> None:
    def spoil(answer: dict[str, Any]) -> None:
        p = dict(stated(answer))
        change(p)
        state(answer, p)

    server.change = spoilt("an odd text", spoil)
    account = MemoryAccount()
    async with teacher(server, dialect, account) as asked:
        good, bad = await asked.ask(["a text", "an odd text"])
        (again,) = await asked.ask(["an odd text"])
    assert good.outcome == "ok"
    assert (bad.outcome, bad.probabilities) == (outcome, None)
    assert again.outcome == outcome
    assert bad.reason == ""  # that is for the server's own words
    (said,) = caplog.messages
    assert reason in said
    assert server.texts.count("an odd text") == 1


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_refusal_is_refused(server, dialect) -> None:
    def refuse(answer: dict[str, Any]) -> None:
        name = answer.get("name")
        answer.clear()
        answer.update(type="refusal", name=name)

    server.change = spoilt("an odd text", refuse)
    async with teacher(server, dialect) as asked:
        (answer,) = await asked.ask(["an odd text"])
    assert (answer.outcome, answer.reason) == ("refused", "")


async def test_a_refusal_by_an_error_is_refused_too(serve) -> None:
    good = DecisionServer()
    filtered = httpx.Response(400, json={"detail": {"error_type": "content_filter", "message": "It is filtered."}})
    script = Script(lambda body: filtered if body["state"] == "odd" else good(script.requests[-1]))
    script.url = await serve(script)
    async with teacher(script, "systemone") as asked:
        (answer,) = await asked.ask(["odd"])
    assert (answer.outcome, answer.reason) == ("refused", "It is filtered.")


async def test_small_errors_of_rounding_are_divided_out(server) -> None:
    def change(answer: dict[str, Any]) -> None:
        state(answer, {"billing": 0.333, "refund": 0.333, "shipping": 0.33})

    server.change = spoilt("rounded", change)
    async with teacher(server) as asked:
        (answer,) = await asked.ask(["rounded"])
    assert answer.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert answer.covered == pytest.approx(0.996)


async def test_a_boolean_is_not_the_label_of_the_same_spelling(server) -> None:
    def change(response: dict[str, Any]) -> dict[str, Any]:
        for entry in response["answers"][0]["probabilities"]:
            entry["value"] = {"true": True}.get(entry["value"], entry["value"])
        return response

    server.change = change
    async with teacher(server, labels=("true", "no")) as asked:
        with pytest.raises(TeacherError, match="no probability for 1 of 2 options: 'true'"):
            await asked.ask(["a text"])


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_server_that_answers_in_the_other_dialect_is_named(serve, dialect) -> None:
    path, other = ("/v1/decisions", "systemone") if dialect == "openai" else ("/v1/systemone", "openai")
    openai, systemone = DecisionServer(), DecisionServer()

    def mixed(request: httpx.Request) -> httpx.Response:
        assert request.url.path == path
        question = {"type": "choice", "instructions": "?"}
        listed = {"input": "a", "questions": [{**question, "choices": [{"value": "a"}, {"value": "b"}]}]}
        keyed = {"state": "a", "questions": {"label": {**question, "criteria": {"a": None, "b": None}}}}
        content = {"model": "m", **(keyed if dialect == "openai" else listed)}
        there = "/v1/systemone" if dialect == "openai" else "/v1/decisions"
        answering = systemone if dialect == "openai" else openai
        return answering(httpx.Request("POST", f"http://server{there}", content=json.dumps(content)))

    script = Script(lambda body: mixed(script.requests[-1]))
    script.url = await serve(script)
    async with teacher(script, dialect) as asked:
        with pytest.raises(TeacherError, match=f"set `dialect: {other}`"):
            await asked.ask(["a text"])
    assert len(script.requests) == 1


async def test_a_server_without_the_route_is_told_with_what_to_correct(serve) -> None:
    script = Script(httpx.Response(404, json={"detail": "Not Found"}))
    script.url = await serve(script)
    async with teacher(script, "systemone") as asked:
        with pytest.raises(TeacherError, match=r"answered 404 .*/v1/systemone: correct .*`dialect: openai`"):
            await asked.ask(["a text"])


async def test_a_chat_server_is_told_from_a_decision_server(serve) -> None:
    script = Script(httpx.Response(200, json={"model": "m", "choices": [{"message": {"content": "refund"}}]}))
    script.url = await serve(script)
    async with teacher(script) as asked:
        with pytest.raises(ApiError, match="gives no decision in the format of OpenAI's Decisions API"):
            await asked.ask(["a text"])


async def test_a_route_may_have_another_path(serve, server) -> None:
    def moved(request: httpx.Request) -> httpx.Response:
        there = str(request.url).replace("/v1/decide/now", "/v1/systemone")
        return server(httpx.Request("POST", there, headers=request.headers, content=request.content))

    server.url = await serve(moved)
    async with teacher(server, "systemone", path="/decide/now") as asked:
        (answer,) = await asked.ask(["a text"])
    assert answer.outcome == "ok"


async def test_a_call_costs_its_input_and_is_paid_for_once(server) -> None:
    account = MemoryAccount()
    for _ in range(2):
        async with teacher(server, account=account) as asked:
            planned = await asked.plan("ten tokens")
            (answer,) = await asked.ask(["ten tokens"])
            assert await asked.plan("ten tokens") == []
    ((api, request),) = await _first_plan(server)
    assert planned == []
    assert answer.cost_usd == pytest.approx(10 * 0.1 / 1e6)
    assert answer.tokens == 11
    assert api.max_cost(request) >= answer.cost_usd
    assert sorted(server.texts) == sorted([*LABELS, "ten tokens"])


async def _first_plan(server: DecisionServer) -> Any:
    async with teacher(server) as asked:
        return await asked.plan("ten tokens")


async def test_tokens_of_the_cache_are_counted_apart() -> None:
    details = {"cached_tokens": 60, "cache_write_tokens": 30}
    usage = {"input_tokens": 100, "input_tokens_details": details, "output_tokens": 4}
    account = MemoryAccount()
    account.paid["x"] = PaidResponse({"usage": usage}, 0.0, 0.0)
    read = create(
        {"kind": "decisions", "model": "m", "base_url": "http://localhost/v1", "usd_per_million": PRICE}, LABELS
    )
    found = read.usage_of({"usage": usage})  # type: ignore[attr-defined]
    assert (found.input, found.cached, found.cache_write, found.output) == (10, 60, 30, 4)
    assert read.usage_of({"usage": {"input_tokens": None}}) is None  # type: ignore[attr-defined]
    await read.aclose()


def many(count: int, size: int) -> tuple[tuple[str, ...], dict[str, list[str]]]:
    groups = {
        f"group {start}": [f"label {start + i}" for i in range(min(size, count - start))]
        for start in range(0, count, size)
    }
    return tuple(label for members in groups.values() for label in members), groups


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_more_than_255_labels_are_asked_in_two_steps_within_one_call(server, dialect) -> None:
    labels, groups = many(301, 100)
    async with teacher(server, dialect, labels=labels, groups=groups, prompt={"instructions": "?"}) as asked:
        (answer,) = await asked.ask(["a text"])
    between = distribution("a text", "?", list(groups))
    expected = [
        between[group] * (distribution("a text", "?", members)[label] if len(members) > 1 else 1.0)
        for group, members in groups.items()
        for label in members
    ]
    assert answer.method == "two_step"
    assert answer.probabilities == pytest.approx(expected, rel=1e-5)
    assert answer.tail == 0.0
    assert len(server.texts) == 3 + 1
    assert len(server.bodies[-1]["questions"]) == 1 + 3  # the group of one label needs no question


async def test_a_group_that_is_refused_matters_only_if_it_has_mass(server) -> None:
    labels, groups = ("a", "b", "c", "d"), {"left": ["a", "b"], "right": ["c", "d"]}

    def change(response: dict[str, Any]) -> dict[str, Any]:
        if response["usage"]["input_tokens"] > 1:
            response["answers"][2] = {"type": "refusal", "name": "group_1"}
        return response

    server.change = change
    async with teacher(server, labels=labels, groups=groups) as asked:
        light, heavy = await asked.ask(["turn left", "turn right"])
    assert light.outcome == "ok"
    assert light.probabilities[2] == light.probabilities[3] > 0
    assert 0 < light.tail < 0.05
    assert heavy.outcome == "refused"


def test_too_many_labels_need_groups_and_groups_have_a_limit_too() -> None:
    labels, groups = many(300, 300)
    config = {"kind": "decisions", "model": "m", "base_url": "http://localhost/v1", "usd_per_million": PRICE}
    for more in ({}, {"groups": {**groups, "other": ["x"]}}):
        with pytest.raises(
            TeacherError, match="300 options, and decision APIs take 255: divide the labels among `group"
        ):
            create({**config, **more}, (*labels, *(["x"] if more else [])))
    with pytest.raises(TeacherError, match="exactly one group"):
        create({**config, "groups": {"one": ["a"], "two": ["b"]}}, LABELS)


async def test_examples_stand_in_the_instructions(server) -> None:
    prompt = {"instructions": "Which?", "examples": [["give it back", "refund"]]}
    async with teacher(server, prompt=prompt) as asked:
        await asked.ask(["a text"])
    instructions = server.bodies[-1]["questions"][0]["instructions"]
    assert instructions == "Which?\n\n<text>\ngive it back\n</text>\nCategory: refund"


async def test_a_message_of_the_server_repeats_neither_texts_nor_examples(serve) -> None:
    echo = "cannot read 'my card was stolen yesterday' beside 'give my money back now'"
    script = Script(httpx.Response(422, json={"detail": [{"msg": echo, "loc": ["body", "state"]}]}))
    script.url = await serve(script)
    prompt = {"examples": [["give my money back now", "refund"]]}
    async with teacher(script, "systemone", labels=("my card was stolen yesterday", "refund"), prompt=prompt) as asked:
        with pytest.raises(ApiError) as raised:
            await asked.ask(["x"])
    assert "cannot read '***' beside '***'" in str(raised.value)


async def test_it_is_a_member_of_an_ensemble(server) -> None:
    one = {"kind": "decisions", "model": "m", "usd_per_million": PRICE, "base_url": f"{server.url}/v1"}
    members = [{"teacher": one}, {"teacher": {**one, "dialect": "systemone"}, "weight": 3}]
    async with aclosing(create({"kind": "ensemble", "members": members}, LABELS)) as asked:
        (answer,) = await asked.ask(["a text"])
    p = distribution("a text", server.bodies[-1]["questions"]["label"]["instructions"], LABELS)
    assert answer.probabilities == pytest.approx([p[label] for label in LABELS])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("choice-sum", r"the probabilities sum to 1\.\d+ instead of 1"),
        ("choice-key-case", "no probability for 1 of 3 options: 'Refund'"),
        ("wrong-route", "answered 404 .*/v1/systemone: correct"),
        ("strict-ids", ""),
        ("no-null-description", "answered 422"),
        ("confidence-over", ""),
        ("no-usage", ""),
        ("float-usage", ""),
    ],
)
async def test_a_server_of_others_is_read_and_its_faults_are_named(fault, message) -> None:
    mock = pytest.importorskip("jevcompat.mock", reason="needs jevcompat, of the extra dev")
    with mock.Running(mock.MockConfig(faults=frozenset({fault}), key="secret-1")) as running:
        key = {"headers": {"Authorization": "Bearer $JEV_KEY"}}
        labels = ("billing", "Refund", "shipping")
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("JEV_KEY", "secret-1")
            made = teacher(running, "systemone", labels=labels, model="jev-latest", **key)
        async with made as asked:
            if message:
                with pytest.raises(TeacherError, match=message):
                    await asked.ask(["a text"])
                return
            (answer,) = await asked.ask(["a text"])
            assert answer.probabilities.sum() == pytest.approx(1)
            assert answer.model == "jevcompat-mock-0.1"
            assert answer.cost_usd > 0


async def test_a_server_of_others_that_is_busy_is_asked_again() -> None:
    mock = pytest.importorskip("jevcompat.mock", reason="needs jevcompat, of the extra dev")
    with mock.Running(mock.MockConfig(busy_every=4)) as running:
        async with teacher(running, "systemone", model="jev-latest") as asked:
            answers = await asked.ask([f"text {number}" for number in range(6)])
    assert {answer.outcome for answer in answers} == {"ok"}


def test_the_vendor_has_a_price_of_its_own_for_decisions() -> None:
    terms = {"acknowledged": True, "reference": "read"}
    config = parse({"kind": "decisions", "model": "gpt-6-luna", "terms": terms})
    assert isinstance(config, DecisionsConfig)
    assert (config.price().input, config.price().output) == (0.10, 0.0)
    with pytest.raises(TeacherError, match="no price is known for gpt-4o at"):
        create({"kind": "decisions", "model": "gpt-4o", "terms": terms}, LABELS)


def test_system_one_has_no_default_server() -> None:
    with pytest.raises(ValueError, match="needs the server's `base_url`"):
        parse({"kind": "decisions", "dialect": "systemone", "model": "m"})


@pytest.mark.parametrize(
    "where",
    [
        {"base_url": "https://api.typesafe.ai/v1", "model": "jev-latest"},
        {"base_url": "https://typesafe.ai/v1", "model": "jev-latest"},
        {"base_url": "https://gateway.example/v1", "model": "typesafe/jev-1.13"},
    ],
)
def test_a_vendor_that_forbids_training_needs_a_recorded_permission(where) -> None:
    config = {"kind": "decisions", "dialect": "systemone", "usd_per_million": PRICE, **where}
    terms = {"acknowledged": True, "reference": "https://typesafe.ai/terms"}
    for given in ({}, {"terms": terms}):
        with pytest.raises(TeacherError, match="TypeSafe's terms of use forbid training on its answers"):
            create({**config, **given}, LABELS)
    with pytest.raises(ValueError, match="permission"):
        parse({**config, "terms": {**terms, "permission": ""}})
    assert create({**config, "terms": {**terms, "permission": "contract 12 of May"}}, LABELS).labels == LABELS


def test_other_hosts_that_only_look_alike_need_no_permission() -> None:
    terms = {"acknowledged": True, "reference": "read"}
    where = {"base_url": "https://nottypesafe.ai/v1", "model": "jev-latest"}
    config = {"kind": "decisions", "dialect": "systemone", "usd_per_million": PRICE, "terms": terms, **where}
    assert create(config, LABELS).name == "decisions:jev-latest"
