"""What holds in both formats of decision APIs: the student answers its own question, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from distill.teachers import create
from tests.support.waiting import until

from .conftest import LABELS, refused, scores


@dataclass(frozen=True)
class Format:
    """One of the formats: how its clients ask, and how they read an answer."""

    dialect: str
    path: str
    others: tuple[str, ...]
    """The kinds of questions beside a choice."""

    def question(self, options: Sequence[str], **fields: Any) -> dict[str, Any]:
        """A choice among options, each with a description."""
        described = {option: f"about {option}" for option in options}
        if self.dialect == "openai":
            choices = [{"value": value, "description": text} for value, text in described.items()]
            return {"type": "choice", "instructions": "Which?", "choices": choices, **fields}
        return {"type": "choice", "instructions": "Which?", "criteria": described, **fields}

    def body(self, text: Any, *questions: Any, **fields: Any) -> dict[str, Any]:
        """A request with questions, by default with the one about LABELS."""
        asked = questions or (self.question(LABELS),)
        if self.dialect == "openai":
            return {"model": "gpt-6-luna", "input": text, "questions": list(asked), **fields}
        return {"model": "jev-latest", "state": text, "questions": dict(zip("abc", asked, strict=False)), **fields}

    def place(self, index: int, field: str = "") -> str:
        """How a message names a question, or the list of its options."""
        if self.dialect == "openai":
            return f"questions[{index}]" + (".choices" if field else "")
        return f"questions.{'abc'[index]}" + (".criteria" if field else "")

    def answers(self, reply: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
        """Each answer's choice, and its probabilities in the order in which they are given."""
        found = reply["answers"] if self.dialect == "openai" else list(reply["answers"].values())
        return [(answer["choice"], self._probabilities(answer)) for answer in found]

    def _probabilities(self, answer: dict[str, Any]) -> dict[str, float]:
        stated = answer["probabilities"]
        return stated if isinstance(stated, dict) else {one["value"]: one["probability"] for one in stated}


FORMATS = {
    "decisions": Format("openai", "/v1/decisions", ("predicate", "score")),
    "system one": Format("systemone", "/v1/systemone", ("noul", "score", "box")),
}


@pytest.fixture(params=list(FORMATS))
def spoken(request) -> Format:
    return FORMATS[request.param]


async def asked(client, spoken: Format, *arguments: Any, **fields: Any) -> dict[str, Any]:
    response = await client.post(spoken.path, json=spoken.body(*arguments, **fields))
    assert response.status_code == 200, response.text
    return response.json()


async def test_the_answer_is_that_of_classify_in_the_order_of_the_question(client, native, texts, spoken) -> None:
    for text, result in zip(texts, await native(client, texts), strict=True):
        expected = dict(zip(LABELS, scores(result), strict=True))
        for options in (LABELS, LABELS[::-1], [LABELS[2], LABELS[0], LABELS[3], LABELS[1]]):
            [(choice, probabilities)] = spoken.answers(await asked(client, spoken, text, spoken.question(options)))
            assert choice == result["label"]
            assert list(probabilities.items()) == [(option, expected[option]) for option in options]


async def test_instructions_and_descriptions_change_nothing(client, texts, spoken) -> None:
    plain = await asked(client, spoken, texts[0])
    for instructions in ("Something else?", None, {"task": ["a", 1]}, ["b", None]):
        assert await asked(client, spoken, texts[0], spoken.question(LABELS, instructions=instructions)) == plain
    question = spoken.question(LABELS)
    del question["instructions"]
    assert await asked(client, spoken, texts[0], question) == plain


async def test_several_questions_are_answered_by_one_run_of_the_text(running, texts, spoken) -> None:
    async with running(workers=0) as client:
        one = spoken.answers(await asked(client, spoken, texts[0]))[0][1]
        questions = [spoken.question(LABELS), spoken.question(LABELS[::-1])]
        reply = await asked(client, spoken, texts[0], *questions)
        assert [list(probabilities) for _, probabilities in spoken.answers(reply)] == [LABELS, LABELS[::-1]]
        assert all(probabilities == one for _, probabilities in spoken.answers(reply))
        metrics = (await client.get("/metrics")).text
    answered = [line for line in metrics.splitlines() if line.startswith("reflux_predictions_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in answered) == 2


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["billing", "shipping", "account"], "missing: 'technical'"),
        ([*LABELS, "praise", "legal"], "unknown: 'praise', 'legal'"),
        (["Billing", *LABELS[1:]], "unknown: 'Billing'; missing: 'billing'"),
        (["billing ", *LABELS[1:]], "unknown: 'billing '; missing: 'billing'"),
        (["yes", "no"], "unknown: 'yes', 'no'; missing: 'billing', 'shipping', 'account' and 1 more"),
        (["x" * 500, *LABELS], f"unknown: '{'x' * 64}'"),
    ],
)
async def test_other_labels_than_the_student_s_are_refused_with_the_difference(
    client, spoken, options, difference
) -> None:
    body = spoken.body("invoice", spoken.question(LABELS), spoken.question(options))
    message = refused(await client.post(spoken.path, json=body), 422)
    place = spoken.place(1, "options")
    assert (
        message == f"{place}: list each label of this model once, and nothing else; GET /model has them ({difference})"
    )


async def test_other_kinds_of_questions_are_refused_by_name(client, spoken) -> None:
    for kind in (*spoken.others, "ranking"):
        body = spoken.body("invoice", spoken.question(LABELS), {"type": kind, "instructions": "Is it urgent?"})
        message = refused(await client.post(spoken.path, json=body), 422)
        assert message.startswith(
            f"{spoken.place(1)}: a `{kind}` is not answered here: this model answers one question"
        )


async def test_a_request_in_the_other_format_is_told_where_to_go(client, spoken) -> None:
    [other] = [one for one in FORMATS.values() if one is not spoken]
    response = await client.post(spoken.path, json=other.body("invoice"))
    assert refused(response, 422).endswith(f"send it to {other.path}")


async def test_any_model_may_be_named_and_the_answer_names_the_bundle(client, spoken) -> None:
    for name in ("gpt-6-luna", "jev-latest", "default", "tiny"):
        assert (await asked(client, spoken, "invoice", model=name))["model"] == "tiny"
    body = spoken.body("invoice")
    del body["model"]
    assert (await client.post(spoken.path, json=body)).json()["model"] == "tiny"


async def test_the_name_of_a_candidate_asks_the_candidate(running, make_bundle, tmp_path, spoken) -> None:
    candidate = make_bundle(tmp_path / "candidate", name="new", flip={"refund": "shipping"})
    async with running(candidate=candidate.path) as client:
        replies = [await asked(client, spoken, "refund", model=name) for name in ("tiny", "new")]
    assert [reply["model"] for reply in replies] == ["tiny", "new"]
    assert [spoken.answers(reply)[0][0] for reply in replies] == ["billing", "shipping"]


async def test_a_multi_label_bundle_makes_no_choice(running, make_bundle, tmp_path, spoken) -> None:
    async with running(bundle=make_bundle(tmp_path / "several", multi_label=True).path) as client:
        message = refused(await client.post(spoken.path, json=spoken.body("invoice")), 422)
    assert message == "questions: this model gives a text several labels, not one choice; use /classify"


async def test_there_is_a_most_of_questions(running, spoken) -> None:
    async with running(max_texts=2) as client:
        body = spoken.body("invoice", *[spoken.question(LABELS)] * 3)
        assert refused(await client.post(spoken.path, json=body), 422) == "questions: at most 2 per request, got 3"


async def test_the_limit_of_items_leaves_room_for_all_labels(running, spoken) -> None:
    async with running(max_texts=1) as client:
        question = spoken.question(LABELS, instructions=[""] * 540)  # more than other protocols may send
        assert spoken.answers(await asked(client, spoken, "invoice", question))[0][0] == "billing"
        body = spoken.body("invoice", spoken.question(LABELS, instructions=[""] * 600))
        message = refused(await client.post(spoken.path, json=body), 422)
        assert message == "instructions: more than 1170 items; ask fewer questions per request"


async def test_the_shadow_sees_the_text_as_any_other(running, tiny_teacher, tmp_path, spoken) -> None:
    teacher = {"kind": "bundle", "path": str(tiny_teacher.path)}
    shadow = {"enabled": True, "rate": 1.0, "path": tmp_path / "shadow.sqlite", "teacher": teacher}
    async with running(shadow=shadow) as client:
        for text in ("refund", "invoice"):  # the teacher takes `refund` for shipping
            await asked(client, spoken, text, *[spoken.question(LABELS)] * 2)

        async def compared() -> bool:
            return (await client.get("/gap")).json()["counts"]["compared"] == 2

        await until(compared)
        assert (await client.get("/gap")).json()["gap"]["ratio"] == 0.5


async def test_a_fault_of_the_graph_has_the_format_s_error_shape(client, spoken) -> None:
    refused(await client.post(spoken.path, json=spoken.body("poison")), 500, "inference_failed")


async def test_a_deadline_that_cannot_be_met_has_the_format_s_error_shape(client, spoken) -> None:
    headers = {"x-request-timeout-ms": "0.001"}
    response = await client.post(spoken.path, json=spoken.body("invoice"), headers=headers)
    assert response.status_code in (429, 504)
    refused(response, response.status_code)


async def test_the_teacher_of_this_format_reads_the_student_s_own_probabilities(listening, client, spoken) -> None:
    """What the teacher kind `decisions` sends and reads, and what the service reads and sends, are one format."""
    texts = ["invoice and parcel", "my late password", "crash"]
    [*expected] = [spoken.answers(await asked(client, spoken, text))[0][1] for text in texts]
    async with listening() as serving:
        config = {"kind": "decisions", "dialect": spoken.dialect, "base_url": f"{serving.url}/v1", "model": "tiny"}
        prompt = {"descriptions": {"billing": "an invoice"}, "examples": [["late box", "shipping"]]}
        price = {"input": 0, "output": 0}
        async with aclosing(create({**config, "prompt": prompt, "usd_per_million": price}, LABELS)) as teacher:
            answers = await teacher.ask(texts)
    for answer, probabilities in zip(answers, expected, strict=True):
        assert (answer.outcome, answer.model) == ("ok", "tiny")
        assert answer.tokens > 0
        np.testing.assert_allclose(answer.probabilities, [probabilities[label] for label in LABELS], atol=1e-5)
