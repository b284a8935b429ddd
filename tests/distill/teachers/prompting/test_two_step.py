"""Two steps over very many labels come to what one step would, as far as they say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.teachers.account import NoAccount, PaidResponse
from distill.teachers.api.pricing import Price
from distill.teachers.base import Answer
from distill.teachers.errors import TeacherError
from distill.teachers.openai import OpenAIConfig, OpenAITeacher
from distill.teachers.prompting import two_step
from distill.teachers.prompting.label_codes import read, read_all
from distill.teachers.prompting.prompt import Prompt
from tests.support.accounts import MemoryAccount
from tests.support.model_server import ModelServer

SIZES = (1, 2, 9, 13, 14, 15, 16, 17, 18, 21, 24)
GROUPS = {f"group{size}": tuple(f"g{size}-{index}" for index in range(size)) for size in SIZES}
LABELS = tuple(label for index in range(24) for members in GROUPS.values() for label in members[index : index + 1])
CONFIG = {"base_url": "http://localhost:1/v1", "model": "m", "usd_per_million": Price(input=1, output=1)}


def truth(text: str, sharpness: float) -> dict[str, float]:
    """A distribution over 150 labels that is the text's own."""
    generator = np.random.default_rng(abs(hash(text)) if not text.isdigit() else int(text))
    return dict(zip(LABELS, generator.dirichlet(np.full(len(LABELS), sharpness)), strict=True))


def mass(sharpness: float, covered: float = 0.95) -> Any:
    """What the model puts on options: on groups what their labels have, on labels their share of what is offered."""

    def of(options: list[str], text: str) -> Mapping[str, float]:
        labels = truth(text, sharpness)
        raw = {one: sum(labels[label] for label in GROUPS[one]) if one in GROUPS else labels[one] for one in options}
        total = sum(raw.values())
        return {one: covered * value / total for one, value in raw.items()}

    return of


def teacher(server: Any, account: Any = None, **more: Any) -> OpenAITeacher:
    config = OpenAIConfig.model_validate({**CONFIG, "groups": GROUPS, **more})
    return OpenAITeacher(config, LABELS, account or NoAccount(), transport=server.transport)


def away(answer: Answer, text: str, sharpness: float) -> float:
    assert answer.probabilities is not None
    labels = truth(text, sharpness)
    return float(np.abs(answer.probabilities - np.array([labels[label] for label in LABELS])).sum() / 2)


@pytest.mark.parametrize("exact", ["auto", "never"])
@pytest.mark.parametrize("most", [20, 8])
@pytest.mark.parametrize("sharpness", [0.01, 0.1, 3.0])
async def test_the_reconstruction_is_within_the_bound_that_it_states(exact, most, sharpness) -> None:
    server = ModelServer(mass(sharpness), most=most)
    asked = teacher(server, exact=exact, top_logprobs=most, min_covered=0)
    texts = [str(number) for number in range(1000, 1012)]
    server.mass = lambda options, text: mass(sharpness)(options, text if text.isdigit() else "7")  # also for the probe
    answers = await asked.ask(texts)
    assert {answer.method for answer in answers} == {"two_step"}
    for text, answer in zip(texts, answers, strict=True):
        assert answer.probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert away(answer, text, sharpness) <= answer.tail + 1e-5
    if exact == "auto":  # all that is not known is what was not expanded
        assert max(answer.tail for answer in answers) < 0.01
        assert [answer.covered for answer in answers] == pytest.approx([0.95**2] * len(answers))


async def test_groups_are_expanded_the_heaviest_first_until_little_is_left() -> None:
    server = ModelServer(mass(0.1))
    server.mass = lambda options, text: mass(0.1)(options, text if text.isdigit() else "7")
    asked = teacher(server, epsilon=0.2, permutations=1)
    await asked.prepare()
    before = len(server.questions)
    (answer,) = await asked.ask(["1001"])
    offered = [body["messages"][0]["content"] for body in server.questions[before + 1 :]]
    shares = {name: sum(truth("1001", 0.1)[label] for label in members) for name, members in GROUPS.items()}
    several = sorted((name for name in shares if name != "group1"), key=lambda name: -shares[name])
    expanded = several[: len(offered)]
    assert {name for name in GROUPS if any(f": {GROUPS[name][-1]}" in text for text in offered)} == set(expanded)
    left = sum(shares[name] for name in several[len(offered) :])
    assert left < 0.2 <= left + shares[expanded[-1]]
    assert answer.tail == pytest.approx(left, abs=1e-4)


async def test_the_calls_that_can_be_made_now_are_the_first_and_then_those_it_leads_to() -> None:
    server = ModelServer(mass(0.1))
    server.mass = lambda options, text: mass(0.1)(options, text if text.isdigit() else "7")
    account = MemoryAccount()
    asked = teacher(server, account)
    await asked.prepare()
    ((api, first),) = await asked.plan("1002")
    assert "group24" in first.body["messages"][0]["content"]

    async def pay(request: Any) -> None:
        response = server._complete(dict(request.body)).json()
        account.paid[api.key(request)] = PaidResponse(response, 0.25, 1.0)

    await pay(first)
    then = [request for _, request in await asked.plan("1002")]
    assert len(then) >= 2
    await pay(then[0])
    assert [request for _, request in await asked.plan("1002")] == then[1:]
    for request in then[1:]:
        await pay(request)
    assert await asked.plan("1002") == []
    calls = len(server.asked)
    (answer,) = await asked.ask(["1002"])
    assert len(server.asked) == calls
    assert answer.cost_usd == pytest.approx(0.25 * (1 + len(then)))
    assert answer.tokens == 101 * (1 + len(then))


async def test_a_first_answer_that_is_none_leads_to_no_calls() -> None:
    def of(options: list[str], text: str) -> Mapping[str, float]:
        return mass(0.1, 0.1 if text == "1003" else 0.95)(options, text if text.isdigit() else "7")

    server = ModelServer(of)
    asked = teacher(server)
    await asked.prepare()
    before = len(server.questions)
    (answer,) = await asked.ask(["1003"])
    assert (answer.outcome, answer.method) == ("invalid", "two_step")
    assert len(server.questions) == before + 1


@pytest.mark.parametrize(
    ("given_groups", "said"),
    [
        ({"x": ["a", "b"], "y": ["c"]}, r"in no group: \['d'\]"),
        ({"x": ["a", "b", "c"], "y": ["c", "d"]}, r"in more than one place: \['c'\]"),
        ({"x": ["a", "b", "a"], "y": ["c", "d"]}, r"in more than one place: \['a'\]"),
        ({"x": ["a", "b", "e"], "y": ["c", "d"]}, r"not labels of the task: \['e'\]"),
        ({"x": ["a", "b", "c", "d"], "y": []}, r"groups without labels: \['y'\]"),
        ({"x": ["a", "b", "c", "d"]}, "at least two groups"),
    ],
)
def test_every_label_is_in_exactly_one_group(given_groups: dict[str, Any], said: str) -> None:
    config = OpenAIConfig.model_validate({**CONFIG, "groups": given_groups})
    with pytest.raises(TeacherError, match=said):
        OpenAITeacher.from_config(config, ["a", "b", "c", "d"])


def test_descriptions_and_examples_serve_both_steps() -> None:
    prompt = Prompt(descriptions={"x": "all of x", "c": "the third"}, examples=(("one", "a"), ("two", "c")))
    choice = two_step.between({"x": ["a", "b"], "y": ["c", "d"]}, prompt)
    system, *rest = choice.messages("hi", (0, 1))
    assert "A: x - all of x\nB: y - c, d" in system["content"]
    assert [message["content"] for message in rest if message["role"] == "assistant"] == ["A", "B"]
    system, *rest = two_step.within(["c", "d"], prompt).messages("hi", (1, 0))
    assert "A: d\nB: c - the third" in system["content"]
    assert [message["content"] for message in rest if message["role"] == "assistant"] == ["B"]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.3, 3.0]), st.sampled_from([0.0, 0.01, 0.3]))
@settings(max_examples=100, deadline=None)
def test_the_bound_holds_for_any_readings(seed: int, concentration: float, epsilon: float) -> None:
    generator = np.random.default_rng(seed)
    sizes = [1, 2, 5, 20]
    starts = np.cumsum([0, *sizes])
    members = [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=False)]

    def reading(count: int) -> tuple[np.ndarray, Any]:
        exact = generator.dirichlet(np.full(count, concentration))
        said = [(chr(65 + code), 0.9 * share) for code, share in enumerate(exact)]
        listed = sorted([*said, ("The", 0.1)], key=lambda item: -item[1])[: generator.integers(1, 8)]
        return exact, read([(token, math.log(max(mass, 1e-300))) for token, mass in listed], range(count))

    outer_exact, outer = reading(len(sizes))
    inner = [reading(size) for size in sizes]
    expanded = two_step.to_expand(outer.probabilities, sizes, epsilon)
    combined = two_step.combine(outer, {one: inner[one][1] for one in expanded}, members, 28)
    exact = np.concatenate([share * labels for share, (labels, _) in zip(outer_exact, inner, strict=True)])
    assert np.abs(combined.probabilities - exact).sum() / 2 <= combined.bound + 1e-5
    assert sum(outer.probabilities[one] for one in range(1, 4) if one not in expanded) < max(epsilon, 1e-9)


def test_a_group_that_was_not_expanded_is_spread_evenly_and_counted() -> None:
    outer = read_all([0.9, 0.09, 0.01], range(3))
    inner = {0: read_all([0.5, 0.25], range(2))}
    members = [np.array([0, 3]), np.array([1]), np.array([2, 4])]
    combined = two_step.combine(outer, inner, members, 5)
    assert combined.probabilities == pytest.approx([0.6, 0.09, 0.005, 0.3, 0.005])
    assert combined.bound == pytest.approx(0.01)
    assert combined.covered == pytest.approx(0.75)
