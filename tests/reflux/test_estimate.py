"""`reflux estimate` reads a log of prompts and answers and says what a student would save, and no more than that."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from typing import Any

import pytest

from distill.data.support_desk import tickets
from distill.errors import DataError, DistillError
from distill.task import load_task
from distill.teachers.api.pricing import Price, Usage, list_price
from distill.teachers.prompting.naming import stated_name
from reflux import cli as command
from reflux.estimate import report
from reflux.estimate.estimate import Assumed, estimate
from reflux.estimate.log import read_log
from reflux.estimate.questions import find_questions
from tests.support.chat_logs import INSTRUCTIONS, chat, write_log

DAY = 86_400


def desk(count, start=0, **more):
    """`count` calls about tickets, each an hour after the one before, answered with their category."""
    drawn = tickets.generate(start + count, 5)[start:]
    return [
        chat(one.text, json.dumps({"queue": one.label}), timestamp=1.79e9 + 3600 * number, latency_ms=500, **more)
        for number, one in enumerate(drawn)
    ]


def free(count):
    return [
        {
            "messages": [{"role": "user", "content": f"Write to customer {number}."}],
            "answer": f"Dear customer {number}, …",
        }
        for number in range(count)
    ]


def only(path):
    (call,) = read_log(path).calls
    return call


PROMPT = [{"role": "system", "content": "Sort."}, {"role": "user", "content": "my text"}]


@pytest.mark.parametrize(
    "line",
    [
        {"messages": [*PROMPT, {"role": "assistant", "content": "refund"}]},
        {"messages": PROMPT, "completion": "refund"},
        {"prompt": PROMPT, "answer": "refund"},
        {"input": PROMPT, "output": {"choices": [{"message": {"content": "refund"}}]}},
        {
            "request": {"body": {"messages": PROMPT}},
            "response": {"body": {"choices": [{"message": {"content": "refund"}}]}},
        },
        {
            "messages": PROMPT,
            "choices": [{"message": {"content": None, "tool_calls": [{"function": {"arguments": "refund"}}]}}],
        },
        {
            "request": {"system": "system: Sort.", "messages": PROMPT[1:]},
            "response": {"role": "assistant", "content": [{"type": "text", "text": "refund"}]},
        },
        {"request": {"messages": PROMPT}, "response": "refund"},
        {"request": {"messages": PROMPT}, "response": {"label": "refund", "message": "Thanks.", "error": None}},
        {"input": PROMPT, "output": [{"type": "message", "content": [{"type": "output_text", "text": "refund"}]}]},
    ],
)
def test_the_forms_of_a_conversation_are_read(tmp_path, line):
    call = only(write_log(tmp_path / "log.jsonl", [line]))
    assert (call.instructions, call.message, call.answer) == ("system: Sort.", "my text", "refund")


SAID = [
    {"type": "reasoning", "summary": []},
    {"type": "message", "content": [{"type": "output_text", "text": "refund"}]},
]
TOLD = {"role": "user", "content": [{"type": "input_text", "text": "my text"}]}


@pytest.mark.parametrize(
    "line",
    [
        {"request": {"instructions": "Sort.", "input": "my text"}, "response": {"output": SAID, "error": None}},
        {"request": {"instructions": "Sort.", "input": [TOLD]}, "response": {"output": SAID, "status": "completed"}},
        {
            "request": {"body": {"instructions": "Sort.", "input": [TOLD, SAID[0]]}},
            "response": {"body": {"output": SAID}},
        },
        {"instructions": "Sort.", "input": "my text", "text": {"format": {"type": "text"}}, "output": SAID},
        {
            "request": {"instructions": "Sort.", "input": "my text"},
            "response": {"output": [SAID[0], {"type": "function_call", "name": "sort", "arguments": "refund"}]},
        },
        {"system": "Sort.", "messages": PROMPT[1:], "content": [{"type": "text", "text": "refund"}]},
    ],
)
def test_instructions_beside_the_messages_are_read(tmp_path, line):
    call = only(write_log(tmp_path / "log.jsonl", [line]))
    assert (call.instructions, call.message, call.answer) == ("Sort.", "my text", "refund")


RATE_LIMITED = {"error": {"message": "rate limited", "code": 429}}


@pytest.mark.parametrize(
    "outcome",
    [
        {"response": RATE_LIMITED},
        {"response": {"type": "error", **RATE_LIMITED}},
        {"response": {"status_code": 429, "body": RATE_LIMITED}},
        {"response": {"status": 503, "body": "Service Unavailable"}},
        {"response": {"message": "Too many requests"}},
        {"response": {"detail": "Not authenticated"}},
        {"response": {"choices": [{"message": {"content": "ref"}, **RATE_LIMITED}]}},
        {"response": {"status": "failed", "output": [], **RATE_LIMITED}},
        {"response": "upstream timed out", "status_code": 504},
        {"response": {"output": [{"type": "reasoning", "summary": []}]}},
        {"response": None, "error": "timeout"},
        {"answer": RATE_LIMITED},
    ],
)
def test_a_call_that_failed_has_no_answer(tmp_path, outcome):
    lines = [{"prompt": "a text", "answer": "refund"}, {"request": {"messages": PROMPT}, **outcome}]
    log = read_log(write_log(tmp_path / "log.jsonl", lines))
    assert [call.answer for call in log.calls] == ["refund"]
    assert log.skipped == {"without an answer": 1}


@pytest.mark.parametrize("response", [RATE_LIMITED, {"choices": [{"message": {"content": None}}]}])
def test_the_beginning_of_an_answer_in_the_request_is_no_answer(tmp_path, response):
    begun = [*PROMPT, {"role": "assistant", "content": "{"}]
    lines = [{"prompt": "a text", "answer": "refund"}, {"request": {"messages": begun}, "response": response}]
    assert read_log(write_log(tmp_path / "log.jsonl", lines)).skipped == {"without an answer": 1}


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "my text", "completion": "refund"},
        {"question": "my text", "answer": "refund"},
        {"text": "my text", "label": "refund"},
        {"input": "my text", "output": "refund"},
        {"request": {"prompt": "my text"}, "response": {"choices": [{"text": "refund"}]}},
    ],
)
def test_the_forms_of_a_plain_prompt_are_read(tmp_path, line):
    call = only(write_log(tmp_path / "log.jsonl", [line]))
    assert (call.instructions, call.message, call.answer) == ("", "my text", "refund")


@pytest.mark.parametrize(
    ("more", "usage"),
    [
        ({"usage": {"prompt_tokens": 9, "completion_tokens": 2}}, Usage(input=9, output=2)),
        (
            {
                "response": {
                    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
                }
            },
            Usage(input=5, cached=4, output=2),
        ),
        ({"usage": {"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": 4}}, Usage(9, 4, 0, 2)),
        (
            {"usage": {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}},
            Usage(input=5, cached=4, output=2),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 2}, Usage(input=9, output=2)),
        ({}, None),
    ],
)
def test_usage_is_read_as_each_vendor_counts_it(tmp_path, more, usage):
    assert only(write_log(tmp_path / "log.jsonl", [{"prompt": "a text", "answer": "refund", **more}])).usage == usage


@pytest.mark.parametrize(
    ("more", "at", "seconds"),
    [
        ({"timestamp": "2026-11-30T00:00:00Z", "latency": 0.5}, 1795996800, 0.5),
        ({"created_at": 1795996800000, "latency_ms": 500}, 1795996800, 0.5),
        ({"response": {"created": 1795996800}, "latency": 500}, 1795996800, 0.5),  # half a second, not eight minutes
    ],
)
def test_times_and_latencies_are_read_in_their_units(tmp_path, more, at, seconds):
    call = only(write_log(tmp_path / "log.jsonl", [{"prompt": "a text", "answer": "refund", **more}]))
    assert (call.at, call.seconds) == (at, seconds)


def test_lines_that_are_no_calls_are_counted_by_their_reason(tmp_path):
    lines: list[Any] = [
        "{",
        "[1]",
        {"prompt": "a text"},
        {"answer": "refund"},
        {"prompt": "a text", "answer": "refund"},
    ]
    log = read_log(write_log(tmp_path / "log.jsonl", lines))
    assert len(log.calls) == 1
    assert log.skipped == {"not JSON": 1, "no object": 1, "without an answer": 1, "without a prompt": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\n", r"`reflux new .*a\.csv`"),
        ("a.jsonl.gz", b"", r"unpack it first$"),
        ("a.gz.txt", b"", r"unpack it first$"),
        ("a.txt", b"", r"write one JSON object a line, and call it \.jsonl$"),
        ("a.jsonl", b"{}\n", "no line is"),
        ("a.jsonl", b'{"prompt": "\xff"}\n', "not UTF-8 .* convert the log to UTF-8"),
        ("a.jsonl", None, r"cannot be read \(No such file or directory\); give the path of a log$"),
        ("a.txt", None, r"cannot be read \(No such file or directory\); give the path of a log$"),
    ],
)
def test_a_file_that_is_no_log_is_refused_with_the_remedy(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_log(tmp_path / name)


def test_a_folder_is_no_log(tmp_path):
    with pytest.raises(DataError, match="give one of its files"):
        read_log(tmp_path)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("refund", "refund"),
        ("**Refund**.", "Refund"),
        ('{"label": "refund", "why": "money"}', "refund"),
        ('{"queue": "refund", "confidence": 0.9}', "refund"),
        ('```json\n{"spam": true}\n```', "true"),
        ("<think>billing?</think>\nrefund\n\nbecause of the money", "refund"),
        ("The category is: refund", "refund"),
        ("", ""),
    ],
)
def test_the_name_in_an_answer_is_found_without_knowing_the_labels(answer, name):
    assert stated_name(answer) == name


def test_the_list_price_of_a_model_is_found_behind_a_gateways_prefix():
    assert (
        list_price("openai/gpt-4.1-mini-2025-04-14")
        == list_price("gpt-4.1-mini")
        == Price(input=0.4, cached=0.1, output=1.6)
    )
    assert list_price("ours") is None


def test_the_texts_are_cut_out_of_the_prompt(tmp_path):
    (question,) = find_questions(read_log(write_log(tmp_path / "log.jsonl", desk(60))).calls)
    assert question.texts == tuple(one.text for one in tickets.generate(60, 5))
    assert question.instructions == f"system: {INSTRUCTIONS}"


def test_prompts_that_differ_are_different_questions(tmp_path):
    mood = "Say of the review below whether it is positive or negative:\n\n"
    reviews = [
        {"prompt": f"{mood}{one.text}", "answer": "positive" if number % 3 else "Negative."}
        for number, one in enumerate(tickets.generate(40, 6))
    ]
    found = find_questions(read_log(write_log(tmp_path / "log.jsonl", [*desk(120), *reviews, *free(30)])).calls)
    assert [(len(one.calls), len(one.labels)) for one in found] == [(120, 15), (40, 2), (30, 0)]
    assert found[1].labels == ("positive", "Negative")
    assert found[1].texts[0] == tickets.generate(1, 6)[0].text


def test_a_few_answers_that_name_no_label_do_not_open_a_question(tmp_path):
    lines = [*desk(200), *(chat(f"text {number}", f"I cannot say, {number} times.") for number in range(5))]
    (question,) = find_questions(read_log(write_log(tmp_path / "log.jsonl", lines)).calls)
    assert question.closed
    assert sum(label is None for label in question.chosen) == 5


def test_labels_in_sentences_count(tmp_path):
    lines = [*desk(200), chat("text", "I think it belongs to *refund*.")]
    (question,) = find_questions(read_log(write_log(tmp_path / "log.jsonl", lines)).calls)
    assert question.chosen[-1] == "refund"


def test_what_a_student_saves_follows_from_usage_volume_and_price(tmp_path):
    log = write_log(tmp_path / "log.jsonl", desk(97))
    found = estimate(log, Assumed(milliseconds=3.6, usd_per_hour=0.01, shadow=0.1)).document
    assert found["days"] == pytest.approx(4.0)
    assert found["per_month"] == pytest.approx(97 / 4 * 365 / 12)
    money = found["question"]["money"]
    assert money["teacher_usd_per_1000"] == pytest.approx(
        (100 * 2.5 + 10 * 10) / 1000
    )  # gpt-4o: $2.50 and $10 a million
    assert money["today_usd"] == pytest.approx(0.35 * found["per_month"] / 1000)
    assert money["student_usd"] == pytest.approx(0.01 * 730 + 0.1 * money["today_usd"])
    assert money["break_even_texts_per_month"] == pytest.approx(7.3 / 0.35 * 1000)
    assert money["saved_usd"] < 0
    assert "verdict: not for the money" in "\n".join(report.lines(found))
    more = estimate(log, Assumed(per_month=1e6, milliseconds=3.6, usd_per_hour=0.01)).document
    assert more["question"]["money"]["saved_usd"] > 300
    assert "verdict: it saves about $" in "\n".join(report.lines(more))


def test_without_usage_the_cost_is_an_interval(tmp_path):
    lines = [{"model": "gpt-4o", "prompt": one.text, "answer": one.label} for one in tickets.generate(50, 5)]
    cost = estimate(write_log(tmp_path / "log.jsonl", lines), Assumed()).document["cost"]["usd_per_1000"]
    assert cost["lower"] < cost["value"] < cost["upper"]


def test_an_unknown_price_or_volume_is_asked_for(tmp_path):
    lines = [{"prompt": one.text, "answer": one.label, "model": "ours"} for one in tickets.generate(80, 5)]
    log = write_log(tmp_path / "log.jsonl", lines)
    shown = "\n".join(report.lines(estimate(log, Assumed()).document))
    assert "give --per-month" in shown
    assert "verdict: the price of a call is not known: give --usd-per-million" in shown
    shown = "\n".join(report.lines(estimate(log, Assumed(price=Price(input=1, output=1))).document))
    assert "verdict: it saves money above" in shown


def test_repeated_texts_show_how_often_the_model_agrees_with_itself(tmp_path):
    first = desk(100)
    again = [
        chat(one.text.upper(), json.dumps({"queue": "refund" if number < 25 else one.label}))
        for number, one in enumerate(tickets.generate(50, 5))
    ]
    about = estimate(write_log(tmp_path / "log.jsonl", [*first, *again]), Assumed()).document["question"]
    assert about["texts"] == 100
    assert about["repeated"] == pytest.approx(1 / 3)
    same = sum(one.label == "refund" for one in tickets.generate(25, 5)) + 25
    assert about["again"]["texts"] == 50
    assert about["again"]["agreement"]["value"] == pytest.approx(same / 50)
    assert about["again"]["ceiling"] == pytest.approx((1 + same / 50) / 2)


def test_the_expected_agreement_is_measured_on_texts_that_were_held_out(tmp_path):
    student = estimate(write_log(tmp_path / "log.jsonl", desk(600)), Assumed()).document["question"]["student"]
    agreement = student["agreement"]
    assert student["commonest"] + 0.2 < agreement["lower"] < agreement["value"] < agreement["upper"] < 0.94
    words = "meaningless nouns about nothing at all".split()
    guesses = [
        chat(f"{words[number % 6]} {words[number // 6 % 6]} {number}", "ab"[(number * 7919) % 104729 % 2])
        for number in range(400)
    ]
    noise = estimate(write_log(tmp_path / "noise.jsonl", guesses), Assumed()).document["question"]["student"]
    assert noise["agreement"]["lower"] < 0.6


def test_too_small_a_log_says_nothing_of_the_agreement(tmp_path):
    found = estimate(write_log(tmp_path / "log.jsonl", desk(150)), Assumed()).document
    assert found["question"]["student"]["measured"] is False
    assert "not measured: 150 different texts have a label" in "\n".join(report.lines(found))


def test_a_question_that_is_not_there_or_open_is_refused(tmp_path):
    log = write_log(tmp_path / "log.jsonl", [*desk(100), *free(30)])
    with pytest.raises(DistillError, match="the log has 2"):
        estimate(log, Assumed(), 3)
    with pytest.raises(DistillError, match="no classification: most answers differ"):
        estimate(log, Assumed(), 2)


def reflux(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["reflux", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return ended.value.code or 0, capsys.readouterr().out


def test_a_log_without_a_classification_ends_with_3(tmp_path, monkeypatch, capsys):
    status, out = reflux(monkeypatch, capsys, "estimate", write_log(tmp_path / "log.jsonl", free(60)))
    assert status == 3
    assert "verdict: no closed question: most answers differ" in out


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (["refund"], "too few calls to tell"),
        (["refund", "billing"] * 4, "too few calls to tell"),
        (["refund"] * 30, "nearly every answer is the same one"),
        (["refund"] * 30 + ["billing"], "nearly every answer is the same one"),
        ([f"intent {number // 2}" for number in range(60)], "its answers repeat"),
        ([f"Dear customer {number}" for number in range(60)], "most answers differ"),
    ],
)
def test_why_a_question_is_open_is_said(tmp_path, answers, why):
    lines = [{"prompt": f"text {number}", "answer": answer} for number, answer in enumerate(answers)]
    found = estimate(write_log(tmp_path / "log.jsonl", lines), Assumed()).document
    assert report.lines(found)[-1].startswith(f"verdict: no closed question: {why}")


def test_one_is_not_many(tmp_path):
    shown = report.lines(
        estimate(write_log(tmp_path / "log.jsonl", ["{", {"prompt": "a", "answer": "b"}]), Assumed()).document
    )
    assert shown[0].endswith("log.jsonl: 1 call; 1 line not JSON")
    assert "1 call (100 %): no classification, with 1 different answer to 1 text. “a”" in shown[-3]


def test_the_money_is_that_of_the_calls_with_a_price(tmp_path):
    lines = desk(120)
    for line in lines[:90]:
        line["response"]["model"] = "ours"
    log = write_log(tmp_path / "log.jsonl", lines)
    found = estimate(log, Assumed(per_month=4e6)).document
    money = found["question"]["money"]
    assert money["per_month"] == pytest.approx(1e6)
    assert money["today_usd"] == pytest.approx(1e6 * 0.35 / 1000)
    assert (
        "1 million texts of models with a list price (30 calls of the log) cost $350.00 today"
        in report.lines(found)[-1]
    )


@pytest.mark.parametrize(
    "options",
    [("--usd-per-million", "-1", "5"), ("--usd-per-million", "nan", "5"), ("--usd-per-million", "1", "inf")]
    + [(option, value) for option in ("--per-month", "--milliseconds", "--usd-per-hour") for value in ("nan", "inf")],
)
def test_a_number_that_is_none_is_refused(tmp_path, monkeypatch, capsys, options):
    log = write_log(tmp_path / "log.jsonl", desk(60))
    monkeypatch.setattr(sys, "argv", ["reflux", "estimate", str(log), *options])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_the_next_commands_keep_the_options_and_work_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [{"prompt": one.text, "answer": one.label, "model": "ours"} for one in tickets.generate(150, 5)]
    log = write_log(tmp_path / "log.jsonl", lines)
    (tmp_path / "log-texts").mkdir()
    given = [
        "--per-month",
        "1234567",
        "--usd-per-million",
        "0.4",
        "1.6",
        "--milliseconds",
        "2.5",
        "--usd-per-hour",
        "0.1",
    ]
    _, out = reflux(monkeypatch, capsys, "estimate", log, *given)
    (again,) = _next(out)
    assert again[4:] == [*given, "--write", "log-texts-2"]
    status, out = reflux(monkeypatch, capsys, *again)
    assert status == 0
    for arguments in _next(out):
        status, _ = reflux(monkeypatch, capsys, *arguments)
        assert status == 0
    assert load_task(tmp_path / "log-texts-2/logged/task.yaml").teacher.model_dump()["usd_per_1000"] > 0
    teacher = load_task(tmp_path / "log-texts-2/asked/task.yaml").teacher.model_dump()
    assert (teacher["kind"], teacher["model"], teacher["usd_per_million"]["output"]) == ("openai", "ours", 1.6)


@pytest.mark.parametrize(
    ("model", "teacher", "asked"),
    [
        ("ours", "openai", "gpt-4.1-mini"),
        ("anthropic/claude-haiku-4-5", "anthropic", "claude-haiku-4-5"),
        ("gpt-4o-2024-08-06", "openai", "gpt-4o-2024-08-06"),
    ],
)
def test_the_model_of_the_log_is_suggested_as_the_teacher(tmp_path, monkeypatch, capsys, model, teacher, asked):
    monkeypatch.chdir(tmp_path)
    lines = [{"prompt": one.text, "answer": one.label, "model": model} for one in tickets.generate(150, 5)]
    log = write_log(tmp_path / "log.jsonl", lines)
    _, out = reflux(monkeypatch, capsys, "estimate", log, "--write", "texts")
    for arguments in _next(out):
        status, _ = reflux(monkeypatch, capsys, *arguments)
        assert status == 0
    found = load_task(tmp_path / "texts/asked/task.yaml").teacher.model_dump()
    assert (found["kind"], found["model"]) == (teacher, asked)


def test_from_a_log_to_a_task(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log = write_log(tmp_path / "log.jsonl", [*desk(150), chat("who knows", "no idea"), *desk(20)])
    status, out = reflux(monkeypatch, capsys, "estimate", log, "--json", "found.json")
    assert status == 0
    assert json.loads((tmp_path / "found.json").read_text())["number"] == 1
    status, out = reflux(monkeypatch, capsys, *_next(out)[0])
    assert status == 0
    rows = list(csv.DictReader((tmp_path / "log-texts" / "texts.csv").open(newline="")))
    assert Counter(row["label"] for row in rows)[""] == 1
    assert len(rows) == 171
    recorded, asked = _next(out)
    status, out = reflux(monkeypatch, capsys, *recorded)
    assert status == 0
    assert [one[0] for one in _next(out)] == ["label", "check", "run"]
    task = load_task(tmp_path / "log-texts" / "logged" / "task.yaml")
    assert task.teacher.model_dump()["usd_per_1000"] == 0.35
    assert task.labels == tuple(sorted({one.label for one in tickets.generate(150, 5)}))
    status, _ = reflux(monkeypatch, capsys, *asked)
    assert status == 0
    assert set(load_task(tmp_path / "log-texts" / "asked" / "task.yaml").labels) == set(task.labels)
    status, _ = reflux(monkeypatch, capsys, "estimate", log, "--write", "log-texts")
    assert status == 1  # it is not overwritten


def _next(out):
    """The commands that are suggested, as arguments."""
    return [line.split("#")[0].split()[1:] for line in out.splitlines() if line.startswith("  reflux")]
