"""Answers that are not quite JSON: the label that is plainly named is read, and none is guessed."""

from __future__ import annotations

import json

import pytest

from distill.teachers.prompting import votes
from distill.teachers.prompting.naming import json_values, named_label, text_of, without_reasoning

LABELS = ("billing", "refund", "refund request", "card_arrival", "Spam", "not spam", "other")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ('```json\n{"label": "billing"}\n```', "billing"),
        ('```\n{"label": "billing"}\n```', "billing"),
        ('Here you are:\n```json\n{"label": "billing"}\n```\nAnything else?', "billing"),
        ('Sure! {"label": "billing"}', "billing"),
        ('{"label": "billing",}', "billing"),
        ("{'label': 'billing'}", "billing"),
        ("{“label”: “billing”}", "billing"),
        ('{"Label": "Billing."}', "billing"),
        ('{"category": "billing", "reason": "it asks about a refund"}', "billing"),
        ('"billing"', "billing"),
        ("'billing'", "billing"),
        ("“billing”", "billing"),
        ('{"answer": {"label": "billing"}}', "billing"),
        ('{"label": {"name": "Billing."}, "reason": "refund"}', "billing"),
        ('{"label": "billing", "label": "billing"}', "billing"),
        ("«billing»", "billing"),
        ("`billing`", "billing"),
        ("**billing**", "billing"),
        ("billing.", "billing"),
        ("  BILLING \n", "billing"),
        ("Label: billing", "billing"),
        ("label = 'billing'.", "billing"),
        ("**Category:** billing", "billing"),
        ("The final answer is: billing.", "billing"),
        ("It could be a refund, too.\nLabel: billing", "billing"),
        ("<think>refund? no, card_arrival</think>\n\nbilling", "billing"),
        ('<think>a refund</think>{"label": "billing"}', "billing"),
        ('a refund, I think</think>{"label": "billing"}', "billing"),
        ("I would say it is billing.", "billing"),
        ("This text belongs to the category billing, as it mentions an invoice.", "billing"),
        ("refund request", "refund request"),
        ("Refund  Request.", "refund request"),
        ("It is a refund request.", "refund request"),
        ("Card arrival", "card_arrival"),
        ("card-arrival", "card_arrival"),
        ("This is about card arrival.", "card_arrival"),
        ("It is not spam.", "not spam"),
        ('{"label": "not spam"}', "not spam"),
        ("spam", "Spam"),
        ("billing\n\nIt asks about an invoice, not about a refund.", "billing"),
        ("It is no refund.\n\n**billing**", "billing"),
        ('{"label": "billing - asks about an invoice"}', "billing"),
        ("The category is other.", "other"),
        ('I would file it under "other".', "other"),
    ],
)
def test_the_label_that_is_plainly_named_is_taken(text, label) -> None:
    assert named_label(text, LABELS) == LABELS.index(label)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "billing or refund",
        "billing, refund",
        "billing/refund",
        "Label: billing\nLabel: refund",
        "Label: billing, refund",
        '{"label": "billing"} {"label": "refund"}',
        "It is not billing.",
        "Label: not billing",
        "This isn't a refund.",
        "I cannot say whether this is billing",
        "Is it billing?",
        "I am unable to classify it as billing",
        "refunds",
        "prerefund",
        "a billing-related refundable thing",
        "non-billing",
        "This has other problems.",
        "<think>it is billing",
        '{"label": "billing"',
        '{"label": "refun',
        '{"label": null}',
        '{"label": "billing", "label": "refund"}',
        '{"answer": {"label": "billing or refund"}}',
        '{"label": ["billing"]}',
        '{"label": "billing or refund"}',
        '{"label": "not billing"}',
        "billing\nrefund",
        '{"reason": "billing"}',
        "none of them",
    ],
)
def test_what_may_mean_two_or_none_is_none(text) -> None:
    assert named_label(text, LABELS) is None


def test_labels_that_are_numbers_or_a_single_letter_are_read_where_they_stand_alone() -> None:
    assert named_label('{"label": 4}', ("4", "5")) == 0
    assert named_label("4.", ("4", "5")) == 0
    assert named_label("I give 4 reasons", ("4", "5")) is None
    assert named_label("A text with a cause", ("A", "B")) is None


def test_labels_that_differ_in_spacing_alone_are_told_apart() -> None:
    labels = ("card arrival", "card_arrival")
    assert [named_label(text, labels) for text in ("card_arrival", "card arrival.", "card-arrival")] == [1, 0, None]


def entry(confidence: object, label: str = "refund") -> str:
    return json.dumps({"ranking": [{"label": label, "confidence": confidence}]})


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        (entry("90%"), {1: 0.9}),
        (entry("90 %"), {1: 0.9}),
        (entry("90 percent"), {1: 0.9}),
        (entry("0.9%"), {1: 0.009}),
        (entry("0.9"), {1: 0.9}),
        (entry("0,9"), {1: 0.9}),
        (entry(90), {1: 0.9}),
        (entry("90"), {1: 0.9}),
        (entry(0.9, "Refund."), {1: 0.9}),
        (f"```json\n{entry('90%')}\n```", {1: 0.9}),
        (f"<think>hm, {entry(0.1)}</think>{entry(0.9)}", {1: 0.9}),
        ('{"ranking": [{"label": "refund", "confidence": 0.9},]}', {1: 0.9}),
        ('[{"label": "refund", "confidence": 0.7}, {"label": "billing", "confidence": 0.2}]', {1: 0.7, 0: 0.2}),
        ('{"ranking": {"refund": "70%", "billing": 0.2}}', {1: 0.7, 0: 0.2}),
        ('{"refund": 70, "billing": 20}', {1: 0.7, 0: 0.2}),
        ('{"label": "refund", "confidence": "90%"}', {1: 0.9}),
        ('{"ranking": [{"category": "refund", "probability": 0.9}]}', {1: 0.9}),
        ("1. refund: 70%\n2. billing: 20%", {1: 0.7, 0: 0.2}),
        ("- **refund** (0.7)\n- billing (0.2)", {1: 0.7, 0: 0.2}),
        ("refund, with a confidence of 70%", None),
        ('{"refund": 0.7, "refund": 0.2}', None),
        (entry("120%"), None),
        (entry("-5%"), None),
        (entry("high"), None),
        (entry(None), None),
        (f"{entry(0.9)} or {entry(0.2)}", None),
        ('{"ranking": [{"label": "refund", "confid', None),
    ],
)
def test_confidences_are_read_as_they_are_meant(text, stated) -> None:
    read = votes.read_ranking(text, LABELS)
    assert read == (None if stated is None else pytest.approx(stated))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("billing", "billing"),
        ([{"type": "text", "text": "bil"}, {"type": "text", "text": "ling"}], "billing"),
        ([{"type": "thinking", "thinking": "refund"}, {"type": "text", "text": "billing"}], "billing"),
        ([{"type": "output_text", "text": "billing"}], "billing"),
        ([{"text": "billing"}], "billing"),
        (["billing"], "billing"),
        ([{"type": "text", "text": None}], ""),
        (None, ""),
        (7, ""),
    ],
)
def test_the_parts_of_an_answer_are_one_text_without_what_was_thought(content, text) -> None:
    assert text_of(content) == text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think>b<thought>c</thought>d", "bd"),
        ("a</think>b<|message|>c<think>d", "c"),
        ("a<|message|>b</REASONING>c", "c"),
        ("<think>a<thought>b</thought>c</think>d", "d"),
        ("<think>a<thought>b</thought>c", ""),
        ("a<thinking>b</thought>c", "c"),
    ],
)
def test_reasoning_is_left_out_of_an_answer(text, answer) -> None:
    assert without_reasoning(text) == answer


@pytest.mark.timeout(60)  # what takes quadratic time takes half an hour
@pytest.mark.parametrize("part", ["a", "<think>", "</think>", "<think></thought>", "<think>a</think>"])
def test_an_answer_of_a_megabyte_is_read_in_linear_time(part) -> None:
    assert without_reasoning(part * (1_000_000 // len(part))) == ("a" * 1_000_000 if part == "a" else "")
    assert list(json_values("```" + part * (1_000_000 // len(part)))) == []
