"""What servers take is found out before the first text, and what they cannot give is said with what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from distill.teachers.account import NoAccount
from distill.teachers.api.errors import ApiError
from distill.teachers.api.pricing import Price
from distill.teachers.errors import TeacherError
from distill.teachers.openai import OpenAIConfig, OpenAITeacher
from distill.teachers.prompting.chat_logprobs import Dialect, adapted
from distill.teachers.prompting.label_codes import forms, label_codes
from tests.support.accounts import MemoryAccount
from tests.support.model_server import ModelServer
from tests.support.script import Script

LABELS = tuple(f"label{number}" for number in range(40))
CONFIG = {"base_url": "http://localhost:1/v1", "model": "m", "usd_per_million": Price(input=0, output=0)}


def truth(count: int, covered: float = 0.9) -> np.ndarray:
    """A distribution in which most labels are far too unlikely to be among the likeliest tokens."""
    mass = 0.7 ** np.arange(count)
    return covered * mass / mass.sum()


def even(labels: Sequence[str], covered: float = 0.9) -> Callable[[list[str], str], dict[str, float]]:
    return lambda options, text: dict(zip(labels, truth(len(labels), covered), strict=True))


def teacher(
    server: Callable[[httpx.Request], httpx.Response], labels: Sequence[str] = LABELS, account: Any = None, **more: Any
) -> OpenAITeacher:
    config = OpenAIConfig.model_validate({**CONFIG, **more})
    return OpenAITeacher(config, labels, account or NoAccount(), transport=httpx.MockTransport(server))


async def test_token_ids_make_answers_exact_for_every_label() -> None:
    server = ModelServer(even(LABELS))
    (answer,) = await teacher(server).ask(["a text"])
    assert answer.method == "logprobs"
    assert answer.probabilities == pytest.approx(truth(40) / 0.9, rel=1e-4)
    assert (answer.covered, answer.tail) == (pytest.approx(0.9), 0.0)
    last = server.questions[-1]
    assert last["logprobs"] is True
    assert "top_logprobs" not in last
    assert len(last["logprob_token_ids"]) == 80  # with and without a leading space


async def test_where_128_ids_do_not_hold_all_forms_the_likeliest_are_asked_and_the_rest_is_bounded() -> None:
    labels = tuple(f"label{number}" for number in range(100))
    server = ModelServer(even(labels))
    (answer,) = await teacher(server, labels).ask(["a text"])
    asked = server.questions[-1]["logprob_token_ids"]
    assert len(asked) == 128
    assert {server.id_of[code] for code in label_codes(100)} < set(asked)
    exact = truth(100) / 0.9
    assert answer.method == "logprobs"
    assert 0 < answer.tail < 0.35
    assert np.abs(answer.probabilities - exact).sum() / 2 <= answer.tail / (answer.covered + answer.tail)


@pytest.mark.parametrize(
    "settings",
    [{"ids": "ignored"}, {"ids": "refused"}, {"tokenizer": False}, {"whole_numbers": True, "ids": "refused"}],
)
async def test_a_server_that_does_not_list_ids_is_asked_for_its_likeliest_and_the_method_says_so(
    settings: dict[str, Any],
) -> None:
    server = ModelServer(even(LABELS), **settings)
    (answer,) = await teacher(server).ask(["a text"])
    assert answer.method == "logprobs_tail"
    assert server.questions[-1]["top_logprobs"] == 20
    assert "logprob_token_ids" not in server.questions[-1]
    with pytest.raises(TeacherError, match="exact: always"):
        await teacher(server, exact="always").ask(["a text"])


async def test_token_ids_can_be_done_without() -> None:
    server = ModelServer(even(LABELS))
    (answer,) = await teacher(server, exact="never").ask(["a text"])
    assert answer.method == "logprobs_tail"
    assert len(server.asked) == len(server.questions)


async def test_more_than_128_labels_cannot_be_exact() -> None:
    labels = tuple(f"label{number}" for number in range(129))
    (answer,) = await teacher(ModelServer(even(labels)), labels).ask(["a text"])
    assert answer.method == "logprobs_tail"


async def test_a_server_that_lists_fewer_tokens_is_asked_for_what_it_allows() -> None:
    server = ModelServer(even(LABELS), most=5, tokenizer=False)
    (answer,) = await teacher(server).ask(["a text"])
    assert [body["top_logprobs"] for body in server.questions] == [20, 5, 5, 5, 5]
    assert answer.method == "logprobs_tail"
    assert answer.tail > 0.05


async def test_a_tokenizer_that_splits_numbers_is_named() -> None:
    server = ModelServer(even(LABELS), whole_numbers=False)
    with pytest.raises(TeacherError, match=r"'1' 0\.72.*splits numbers.*`groups`"):
        await teacher(server).ask(["a text"])


async def test_too_short_a_list_is_told_from_a_model_that_says_something_else() -> None:
    server = ModelServer(lambda options, text: dict.fromkeys(options, 0.95 / len(options)), tokenizer=False, most=5)
    with pytest.raises(TeacherError, match=r"0\.\d\d is on tokens that the server does not list: raise `top_logprobs`"):
        await teacher(server).ask(["a text"])


async def test_what_was_agreed_is_kept_with_what_was_paid() -> None:
    account = MemoryAccount()
    server = ModelServer(even(LABELS), most=5)
    asked = teacher(server, account=account)
    (answer,) = await asked.ask(["a text"])
    before = len(server.asked)
    again = teacher(server, account=account)
    assert await again.plan("a text") == []
    (same,) = await again.ask(["a text"])
    assert (same.probabilities == answer.probabilities).all()
    assert len(server.asked) == before
    ((api, request),) = await again.plan("another text")
    assert api is again.api
    assert request.body["logprob_token_ids"] == server.questions[-1]["logprob_token_ids"]


def completion(
    token: str = "A", output: int = 1, details: dict[str, int] | None = None, **message: Any
) -> httpx.Response:
    entry = {"token": token, "logprob": -0.01}
    logprobs = message.pop("logprobs", {"content": [{**entry, "top_logprobs": [entry]}]})
    usage = {"prompt_tokens": 10, "completion_tokens": output, "completion_tokens_details": details}
    return httpx.Response(
        200, json={"choices": [{"message": {"content": token, **message}, "logprobs": logprobs}], "usage": usage}
    )


def refusal(message: str, status: int = 400) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message}})


@pytest.mark.parametrize(
    ("base_url", "known", "said"),
    [
        (
            "http://localhost:1/v1",
            "max_completion_tokens",
            "'max_tokens' is not supported; use 'max_completion_tokens'",
        ),
        ("https://8.8.8.8/v1", "max_tokens", '[{"loc": ["body", "max_completion_tokens"], "msg": "Extra inputs"}]'),
    ],
)
async def test_the_limit_of_an_answer_has_two_names_and_the_one_that_is_taken_is_remembered(
    base_url, known, said
) -> None:
    server = Script(lambda body: completion() if known in body else refusal(said, 422))
    terms = {"acknowledged": True, "reference": "x"}
    await teacher(server, ("a", "b"), base_url=base_url, terms=terms).ask(["one", "two"])
    assert [known in body for body in server.asked] == [False, True, True, True, True]
    assert all(body.get("max_tokens", body.get("max_completion_tokens")) == 1 for body in server.asked)


async def test_a_limit_that_is_not_obeyed_is_found_by_what_it_costs() -> None:
    server = Script(lambda body: completion(output=1 if "max_completion_tokens" in body else 300))
    await teacher(server, ("a", "b")).ask(["one"])
    assert ["max_tokens" in body for body in server.asked] == [True, False, False, False]
    with pytest.raises(TeacherError, match="generates 300 tokens"):
        await teacher(Script(lambda body: completion(output=300)), ("a", "b")).ask(["one"])


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refusal("You are not allowed to request logprobs from this model.", 403), "no logprobs.*reasoning_effort"),
        (refusal("Unsupported parameter: 'logprobs' is not supported with this model."), "no logprobs.*extra_body"),
        (refusal("logprobs are not supported for gpt-5"), "no logprobs"),
        (
            refusal("Could not finish the message because max_tokens or model output limit was reached."),
            "reasons before it answers.*reasoning_effort",
        ),
        (completion("", details={"reasoning_tokens": 1}, logprobs=None), "reasons before it answers.*method: votes"),
        (completion("", reasoning_content="Let me", logprobs=None), "reasons before it answers"),
        (completion("Okay", reasoning_content="Okay"), "'Okay' 0.99.*reasons before it answers"),
        (completion("<think>"), "'<think>' 0.99.*reasons before it answers.*enable_thinking"),
        (completion("<|channel|>"), "reasons before it answers"),
        (completion(logprobs=None), "gives no top_logprobs.*Use one that has"),
        (completion(logprobs={"content": None}), "gives no top_logprobs"),
        (completion(logprobs={"content": [{"token": "A", "logprob": 0, "top_logprobs": []}]}), "gives no top_logprobs"),
        (
            completion(logprobs={"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": "NaN"}]}]}),
            "gives no top_logprobs",
        ),
        (completion("", logprobs={"content": []}), r"0\.00 of its mass.*says nothing"),
        (completion("The"), "'The' 0.99.*prompt.nearest"),
    ],
)
async def test_what_a_server_or_model_cannot_is_said_with_what_to_do(reply: httpx.Response, said: str) -> None:
    server = Script(reply)
    with pytest.raises(TeacherError, match=said):
        await teacher(server, ("a", "b")).ask(["my own text"])
    assert not any("my own text" in body["messages"][-1]["content"] for body in server.asked)


@pytest.mark.parametrize(
    ("said", "status"), [("no such model", 404), ("too long: max_tokens", 500), ("", 400), ("bad key: logprobs", 401)]
)
def test_what_no_other_dialect_helps_stays_as_it_is(said: str, status: int) -> None:
    error = ApiError("it failed", status=status, reason=said)
    with pytest.raises(ApiError, match="it failed"):
        adapted(Dialect(), error, "it")


def test_ids_are_asked_in_the_order_of_likelihood_and_only_where_every_code_has_one() -> None:
    ids = {"A": [1, 11], "B": [2], "C": [3, 13, 23]}
    assert Dialect(ids=ids).requested(3) == [(1, 0), (2, 1), (3, 2), (11, 0), (13, 2), (23, 2)]
    assert Dialect(ids=ids).requested(2) == [(1, 0), (2, 1), (11, 0)]
    assert Dialect(ids=ids).requested(4) == []
    assert len(forms("A")) == 4
