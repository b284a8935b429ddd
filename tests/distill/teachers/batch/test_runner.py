"""Batches against servers that speak the vendors' protocols over real sockets, lose, reorder, expire, hang and kill.

Whatever happens, a server sees each batch once, and each call is charged once.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.labelling.batch_account import StoredBatchAccount
from distill.labelling.session import LabellingOptions
from distill.run import Run
from distill.task import Task
from distill.teachers import TeacherError, create
from distill.teachers.account import BudgetError
from distill.teachers.api.errors import ApiError
from distill.teachers.base import Answer
from distill.teachers.batch import collect, runner, submit

ROOT = Path(__file__).parents[4]
LABELS = ("billing", "refund", "shipping")
PRICE = {"input": 1.0, "output": 4.0}


def denied(status: int, said: str) -> httpx.Response:
    return httpx.Response(status, json={"type": "error", "error": {"type": "api_error", "message": said}})


def ok(value: Any) -> httpx.Response:
    return httpx.Response(200, json=value)


def jsonl(kind: str, rows: Sequence[Any]) -> httpx.Response:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    return httpx.Response(200, headers={"content-type": kind}, content=content)


@dataclass
class Made:
    """A batch that a vendor has."""

    id: str
    requests: list[tuple[str, dict[str, Any]]]
    metadata: dict[str, str]
    created: float
    looks: int = 0
    ended: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Vendor:
    """A vendor: its batches, what was asked outside of them, and what it is told to do wrong.

    `mishaps` are taken in turn at the stage that they name: `(stage, kind)`. `row_says` makes of a text a status other
    than 200; `finishes` says how many calls of the next batch are done before it ends as `ends`.
    """

    base_url: str = ""
    made: list[Made] = field(default_factory=list)
    ordinary: list[dict[str, Any]] = field(default_factory=list)
    charged: Counter[str] = field(default_factory=Counter)
    mishaps: list[tuple[str, str]] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    row_says: Callable[[str], int] = lambda text: 200
    finishes: list[tuple[int | None, str]] = field(default_factory=list)
    usage: bool = True
    shuffle: random.Random = field(default_factory=lambda: random.Random(3))
    killed: list[str] = field(default_factory=list)

    kind = ""
    mark = ""

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        stage = self.stage(request.method, request.url.path)
        self.stages.append(stage)
        mishap = self.mishaps.pop(0)[1] if self.mishaps and self.mishaps[0][0] == stage else ""
        if mishap == "kill before":
            return self.kill(request, stage)
        if mishap.startswith("refuse"):
            status, *seconds = mishap.split()[1:]
            refusal = denied(int(status), "refused, as told")
            if seconds:
                refusal.headers["retry-after"] = seconds[0]
            return refusal
        response = self.reply(stage, request)
        if mishap == "kill after":
            return self.kill(request, stage)
        if mishap == "hang":
            await asyncio.sleep(3600)
        return self.spoilt(response, mishap)

    def spoilt(self, response: httpx.Response, mishap: str) -> httpx.Response:
        content, kind = response.content, {"content-type": response.headers["content-type"]}
        if mishap == "500 after":
            return denied(500, "lost, as told")
        if mishap == "html":
            content, kind = b"<html>\n<body>gateway", {"content-type": "text/html"}
        if mishap == "truncate":
            content, kind = content[: len(content) // 2], {**kind, "content-length": str(len(content))}
        content = {
            "cut line": content[: len(content) // 2],
            "long line": b" " * 50_000 + content,
            "repeated": (content + b"\n") * 50,
            "lose lines": content.split(b"\n")[0],
            "other's": content.replace(b'"custom_id": "', b'"custom_id": "0'),
        }.get(mishap, content)
        return httpx.Response(response.status_code, headers=kind, content=content)

    def kill(self, request: httpx.Request, stage: str) -> httpx.Response:
        self.killed.append(stage)
        os.kill(int(request.headers["x-pid"]), signal.SIGKILL)
        return denied(500, "to nobody")

    def stage(self, method: str, path: str) -> str:
        raise NotImplementedError

    def reply(self, stage: str, request: httpx.Request) -> httpx.Response:
        raise NotImplementedError

    def response(self, body: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def row(self, custom_id: str, body: dict[str, Any], outcome: str) -> dict[str, Any]:
        raise NotImplementedError

    def text(self, body: dict[str, Any]) -> str:
        return body["messages"][-1]["content"].split("\n")[1]

    def make(self, requests: list[tuple[str, dict[str, Any]]], metadata: dict[str, str]) -> Made:
        made = Made(f"{self.mark}{len(self.made)}", requests, metadata, time.time())
        self.made.append(made)
        return made

    def advance(self, made: Made) -> None:
        """Each look brings a batch one step on; it ends at the third."""
        made.looks += 1
        if made.looks < 3 or made.ended:
            return
        count, made.ended = self.finishes.pop(0) if self.finishes else (None, "completed")
        for index, (custom_id, body) in enumerate(made.requests):
            status = self.row_says(self.text(body))
            done = count is None or index < count
            outcome = str(status) if done else made.ended
            if outcome == "200":
                self.charged[json.dumps([body, custom_id.split("-")[1]], sort_keys=True)] += 1
            made.results.append(self.row(custom_id, body, outcome))
        self.shuffle.shuffle(made.results)

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        self.ordinary.append(body)
        return self.response(body)

    @property
    def asked_alone(self) -> set[str]:
        """Texts of the pool that were asked outside of batches."""
        return {text for body in self.ordinary if (text := self.text(body)) not in LABELS}

    @property
    def cost(self) -> float:
        """What a finished call in a batch costs."""
        return (100 * 1.0 + 10 * 4.0) / 1e6 / 2

    @property
    def charges(self) -> int:
        return sum(self.charged.values())


class OpenAI(Vendor):
    kind, mark = "openai", "batch_"

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.problem: list[dict[str, Any]] = []

    def stage(self, method: str, path: str) -> str:
        parts = path.removeprefix("/v1/").split("/")
        if method == "POST":
            return {"files": "upload", "batches": "create", "chat": "ask"}[parts[0]]
        return "results" if parts[0] == "files" else "look" if len(parts) > 1 else "list"

    def reply(self, stage: str, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1/").split("/")
        if stage == "ask":
            return ok(self.ask(json.loads(request.content)))
        if stage == "upload":
            name = f"file-{len(self.files)}"
            self.files[name] = self.part(request.headers["content-type"], request.content)
            return ok({"id": name, "object": "file", "purpose": "batch"})
        if stage == "create":
            wanted = json.loads(request.content)
            assert wanted["completion_window"] == "24h"
            lines = [json.loads(line) for line in self.files[wanted["input_file_id"]].decode().splitlines()]
            assert all(line["url"] == wanted["endpoint"] == "/v1/chat/completions" for line in lines)
            assert all(line["method"] == "POST" for line in lines)
            assert len({line["body"]["model"] for line in lines}) == 1
            assert len({line["custom_id"] for line in lines}) == len(lines)
            made = self.make([(line["custom_id"], line["body"]) for line in lines], wanted["metadata"])
            return ok(self.shown(made))
        if stage == "list":
            query = request.url.params
            rows = [self.shown(made) for made in reversed(self.made)]
            if "after" in query:
                rows = rows[[row["id"] for row in rows].index(query["after"]) + 1 :]
            page = rows[:2]  # pages are small, so that there are several
            return ok({"object": "list", "data": page, "has_more": len(rows) > len(page)})
        if stage == "look":
            found = [made for made in self.made if made.id == path[1]]
            if not found:
                return denied(404, f"No batch found with id '{path[1]}'.")
            self.advance(found[0])
            return ok(self.shown(found[0]))
        made = next(made for made in self.made if made.id == path[1].split(".")[0])
        wanted_rows = [row for row in made.results if self.good(row) == path[1].endswith(".output")]
        return jsonl("application/octet-stream", wanted_rows)

    def part(self, kind: str, body: bytes) -> bytes:
        boundary = kind.split("boundary=")[1].encode()
        parts = {}
        for part in body.split(b"--" + boundary)[1:-1]:
            head, _, content = part.strip(b"\r\n").partition(b"\r\n\r\n")
            parts[head.split(b'name="')[1].split(b'"')[0].decode()] = content
        assert parts["purpose"] == b"batch"
        return parts["file"]

    def good(self, row: dict[str, Any]) -> bool:
        return row["error"] is None and row["response"]["status_code"] == 200

    def shown(self, made: Made) -> dict[str, Any]:
        good = sum(self.good(row) for row in made.results)
        bad = len(made.results) - good
        status = made.ended or ("validating", "in_progress", "finalizing")[min(made.looks, 2)]
        failed = status == "failed"
        return {
            "id": made.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "errors": {"object": "list", "data": self.problem} if failed else None,
            "status": status,
            "output_file_id": f"{made.id}.output" if good and not failed else None,
            "error_file_id": f"{made.id}.error" if bad and not failed else None,
            "created_at": int(made.created),
            "request_counts": {"total": len(made.requests), "completed": good, "failed": bad},
            "metadata": made.metadata,
        }

    def response(self, body: dict[str, Any]) -> dict[str, Any]:
        system = body["messages"][0]["content"]
        code_of = {line.split(": ")[1]: line.split(": ")[0] for line in system.splitlines() if ": " in line[:5]}
        code = code_of.get(self.text(body).split(" ")[0], "A")
        listed = [{"token": code, "logprob": math.log(0.9)}, {"token": "The", "logprob": math.log(0.05)}]
        choice = {
            "message": {"role": "assistant", "content": code},
            "logprobs": {"content": [{**listed[0], "top_logprobs": listed}]},
            "finish_reason": "length",
        }
        if "broken" in self.text(body):
            choice["logprobs"] = None
        usage = {"prompt_tokens": 100, "completion_tokens": 10 if "batch" in self.text(body) else 1}
        return {"choices": [choice], **({"usage": usage} if self.usage else {})}

    @property
    def cost(self) -> float:
        return (100 * 1.0 + 1 * 4.0) / 1e6 / 2

    def row(self, custom_id: str, body: dict[str, Any], outcome: str) -> dict[str, Any]:
        row: dict[str, Any] = {"id": "batch_req_1", "custom_id": custom_id, "response": None, "error": None}
        if outcome in ("expired", "cancelled"):
            row["error"] = {"code": f"batch_{outcome}", "message": f"This request was not executed: {outcome}."}
        elif outcome == "200":
            row["response"] = {"status_code": 200, "request_id": "r", "body": self.response(body)}
        else:
            error = {"message": f"row {outcome}", **({"code": "content_filter"} if outcome == "451" else {})}
            row["response"] = {"status_code": 400 if outcome == "451" else int(outcome), "body": {"error": error}}
        return row


class Anthropic(Vendor):
    kind, mark = "anthropic", "msgbatch_"

    def stage(self, method: str, path: str) -> str:
        rest = path.removeprefix("/v1/messages").strip("/").split("/")
        if method == "POST":
            return "create" if rest == ["batches"] else "ask"
        return {1: "list", 2: "look", 3: "results"}[len(rest)]

    def reply(self, stage: str, request: httpx.Request) -> httpx.Response:
        path = request.url.path.split("/")
        if stage == "ask":
            return ok(self.ask(json.loads(request.content)))
        if stage == "create":
            assert request.headers["anthropic-version"] == "2023-06-01"
            assert int(request.headers["content-length"]) == len(request.content)
            requests = [(one["custom_id"], one["params"]) for one in json.loads(request.content)["requests"]]
            allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
            assert all(1 <= len(name) <= 64 and set(name) <= allowed for name, _ in requests)
            assert len({name for name, _ in requests}) == len(requests)
            return ok(self.shown(self.make(requests, {})))
        if stage == "list":
            query = request.url.params
            rows = [self.shown(made) for made in reversed(self.made)]
            if "after_id" in query:
                rows = rows[[row["id"] for row in rows].index(query["after_id"]) + 1 :]
            page = rows[:2]
            return ok({"data": page, "has_more": len(rows) > len(page), "first_id": None, "last_id": None})
        found = [made for made in self.made if made.id == path[4]]
        if not found:
            return denied(404, "no such batch")
        if stage == "look":
            self.advance(found[0])
            return ok(self.shown(found[0]))
        return jsonl("application/x-jsonl", found[0].results)

    def shown(self, made: Made) -> dict[str, Any]:
        types = Counter(row["result"]["type"] for row in made.results)
        counts = {kind: types[kind] for kind in ("succeeded", "errored", "canceled", "expired")}
        counts["processing"] = len(made.requests) - len(made.results)
        return {
            "id": made.id,
            "type": "message_batch",
            "processing_status": "ended" if made.ended else "in_progress",
            "request_counts": counts,
            "created_at": datetime.fromtimestamp(made.created, UTC).isoformat().replace("+00:00", "Z"),
            "results_url": f"{self.base_url}/v1/messages/batches/{made.id}/results" if made.ended else None,
        }

    def response(self, body: dict[str, Any]) -> dict[str, Any]:
        label = self.text(body).split(" ")[0]
        said: dict[str, Any] = {"ranking": [{"label": label if label in LABELS else "billing", "confidence": 0.9}]}
        if "label" in body["output_config"]["format"]["schema"]["properties"]:
            said = {"label": said["ranking"][0]["label"]}
        return {
            "type": "message",
            "content": None if "broken" in self.text(body) else [{"type": "text", "text": json.dumps(said)}],
            "stop_reason": "end_turn",
            **({"usage": {"input_tokens": 100, "output_tokens": 10}} if self.usage else {}),
        }

    def row(self, custom_id: str, body: dict[str, Any], outcome: str) -> dict[str, Any]:
        if outcome == "200":
            result: dict[str, Any] = {"type": "succeeded", "message": self.response(body)}
        elif outcome in ("expired", "cancelled"):
            result = {"type": outcome.replace("ll", "l")}
        else:
            kinds = {"400": "invalid_request_error", "451": "invalid_request_error", "413": "request_too_large"}
            kind = {**kinds, "404": "not_found_error"}.get(outcome, "api_error")
            why = "Output blocked by content filtering policy, " if outcome == "451" else ""
            error = {"type": "error", "error": {"type": kind, "message": f"{why}row {outcome}"}}
            result = {"type": "errored", "error": error}
        return {"custom_id": custom_id, "result": result}


@pytest.fixture(params=["openai", "anthropic"])
def vendor(request) -> Vendor:
    return request.getfixturevalue(request.param)


@pytest.fixture
async def openai(serve) -> Vendor:
    vendor = OpenAI()
    vendor.base_url = f"{await serve(vendor)}/v1"
    return vendor


@pytest.fixture
async def anthropic(serve) -> Vendor:
    vendor = Anthropic()
    vendor.base_url = await serve(vendor)
    return vendor


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "answers.sqlite"


def config(vendor: Vendor, **settings: Any) -> dict[str, Any]:
    given = {"kind": vendor.kind, "base_url": vendor.base_url, "model": "m", "usd_per_million": PRICE, "attempts": 2}
    if vendor.kind == "anthropic":
        given["method"] = "verbalised"
    return {**given, "batch": {"interval_seconds": 0.005}, **settings}


def pool(count: int) -> list[str]:
    return [f"{LABELS[number % 3]} {number}" for number in range(count)]


@dataclass
class Life:
    """What one process did: answers where it came to them, what the account says, what was told."""

    answers: Sequence[Answer] = ()
    told: list[str] = field(default_factory=list)
    spent: float = 0.0
    reserved: float = 0.0


async def live(
    vendor: Vendor, path: Path, texts: list[str], *, max_usd: float | None = None, ask: bool = True, **settings: Any
) -> Life:
    """Fill the account and ask for each text, in a store that was closed before and is closed after."""
    life = Life()
    with AnswerStore(path) as store:
        book = StoredAccount(store, max_usd)
        teacher = create(config(vendor, **settings), LABELS, book)
        try:
            await runner.make_calls(
                teacher, [(text, 0) for text in texts], StoredBatchAccount(store, book), notify=life.told.append
            )
            if ask:
                life.answers = await teacher.ask(texts)
        finally:
            life.spent, life.reserved = book.spent, book.reserved
            await teacher.aclose()
    return life


def account(path: Path) -> tuple[float, float]:
    """What is spent and what is reserved, as a process that starts now finds it."""
    with AnswerStore(path) as store:
        book = StoredAccount(store)
        return book.spent, book.reserved


def assert_right(life: Life, texts: list[str]) -> None:
    assert [LABELS[int(answer.probabilities.argmax())] for answer in life.answers] == [
        text.split(" ")[0] for text in texts
    ]


def assert_once(vendor: Vendor, count: int) -> None:
    """Every call was charged once, in a batch, and none outside of it."""
    assert sorted(vendor.charged.values()) == [1] * count
    assert vendor.asked_alone == set()


async def test_a_batch_fills_the_account_and_every_text_finds_its_calls_paid(vendor, path) -> None:
    texts = pool(25)
    life = await live(vendor, path, texts)
    assert_right(life, texts)
    assert_once(vendor, 25)
    assert len(vendor.made) == 1
    probes = sum(1 for body in vendor.ordinary)
    assert life.spent == pytest.approx(25 * vendor.cost + probes * 2 * vendor.cost)
    assert life.reserved == pytest.approx(0, abs=1e-12)
    assert all(answer.cost_usd == pytest.approx(vendor.cost) for answer in life.answers)
    assert any("open batches: 1; " in said for said in life.told)
    again = await live(vendor, path, texts)
    assert_right(again, texts)
    assert_once(vendor, 25)


async def test_probes_come_before_a_batch_so_that_a_wrong_key_is_known_at_once(vendor, path) -> None:
    vendor.mishaps = [("ask", "refuse 401")]
    with pytest.raises(TeacherError, match="refuses the key"):
        await live(vendor, path, pool(5))
    assert vendor.made == []


async def test_a_text_that_stands_there_twice_is_in_a_batch_once(vendor, path) -> None:
    await live(vendor, path, ["refund 1", "refund 1", "billing 2"])
    assert_once(vendor, 2)


async def test_texts_of_any_characters_survive(vendor, path) -> None:
    texts = ["refund é\u2028\x85 \U0001f600 \"'\\", "billing </text> {", "shipping \x00"]
    assert_right(await live(vendor, path, texts), texts)
    assert_once(vendor, 3)


async def test_votes_are_all_in_the_batch_each_draw_a_call(anthropic, path) -> None:
    life = await live(anthropic, path, pool(4), method="votes", samples=5, permutations=1)
    assert_right(life, pool(4))
    assert anthropic.charges == 20
    assert len(anthropic.made[0].requests) == 20
    assert life.answers[0].cost_usd == pytest.approx(5 * anthropic.cost)


async def test_votes_of_a_chat_api_are_too(openai, path) -> None:
    openai.response = lambda body: {
        "choices": [
            {
                "message": {"content": json.dumps({"label": openai.text(body).split(" ")[0].upper()})},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 1},
    }
    life = await live(openai, path, pool(4), method="votes", samples=3)
    assert_right(life, pool(4))
    assert {answer.method for answer in life.answers} == {"votes"}
    assert openai.charges == 12
    body = openai.made[0].requests[0][1]
    assert body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == list(LABELS)


async def test_a_teacher_with_two_steps_takes_two_rounds(openai, path) -> None:
    groups = {"money": ["billing", "refund"], "goods": ["shipping"]}

    def said(body: dict[str, Any]) -> dict[str, Any]:
        text = openai.text(body).split(" ")[0]
        system = body["messages"][0]["content"]
        code_of = {line.split(": ")[1].split(" -")[0]: line[0] for line in system.splitlines() if line[1:3] == ": "}
        wanted = text if text in code_of else {"billing": "money", "refund": "money"}.get(text, "goods")
        code = code_of.get(wanted, "A")
        listed = [{"token": code, "logprob": math.log(0.999)}, {"token": "The", "logprob": math.log(0.0005)}]
        return {
            "choices": [
                {"message": {"content": code}, "logprobs": {"content": [{**listed[0], "top_logprobs": listed}]}}
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 1},
        }

    openai.response = said
    life = await live(openai, path, pool(9), groups=groups)
    assert_right(life, pool(9))
    assert [len(made.requests) for made in openai.made] == [9, 6]
    assert openai.asked_alone == set()


async def test_batches_are_no_larger_than_they_may_be(vendor, path, monkeypatch) -> None:
    texts = pool(25)
    await live(vendor, path, texts, batch={"interval_seconds": 0.005, "calls": 10})
    assert sorted(len(made.requests) for made in vendor.made) == [5, 10, 10]
    assert_once(vendor, 25)


async def test_nor_of_more_bytes(vendor, path, monkeypatch) -> None:
    teacher: Any = create(config(vendor), LABELS)
    ((api, request),) = await teacher.plan("billing 0")
    (batch_api,) = teacher.batch_apis()
    await teacher.aclose()
    line = len(batch_api.line("x" * 49, request))
    monkeypatch.setattr(type(batch_api), "max_bytes", 4 * line + 40)
    await live(vendor, path, pool(10))
    assert sorted(len(made.requests) for made in vendor.made) == [2, 4, 4]
    assert api.name.startswith(vendor.kind)


async def test_calls_that_failed_for_once_are_in_the_next_round(vendor, path) -> None:
    failed: set[str] = set()

    def says(text: str) -> int:
        if text in ("refund 1", "refund 4") and text not in failed:
            failed.add(text)
            return 500
        return 200

    vendor.row_says = says
    life = await live(vendor, path, pool(6))
    assert_right(life, pool(6))
    assert [len(made.requests) for made in vendor.made] == [6, 2]
    assert_once(vendor, 6)


async def test_a_call_that_fails_in_two_rounds_while_others_are_answered_is_its_texts_own(vendor, path) -> None:
    vendor.row_says = lambda text: 500 if text == "refund 1" else 200
    life = await live(vendor, path, pool(6))
    assert [answer.outcome for answer in life.answers] == ["ok", "invalid", "ok", "ok", "ok", "ok"]
    assert [len(made.requests) for made in vendor.made] == [6, 1]


async def test_calls_that_fail_for_good_are_named_and_the_others_kept(vendor, path) -> None:
    vendor.row_says = lambda text: 404 if text == "refund 1" else 200
    with pytest.raises(TeacherError, match=r"1 of the 6 calls .*\(1 × .*others are kept"):
        await live(vendor, path, pool(6))
    assert_once(vendor, 5)
    assert account(path)[1] == 0
    vendor.row_says = lambda text: 200
    assert_right(await live(vendor, path, pool(6)), pool(6))
    assert_once(vendor, 6)


@pytest.mark.parametrize(("status", "outcome"), [(400, "invalid"), (413, "invalid"), (451, "refused")])
async def test_a_text_rejected_while_others_are_answered_has_that_outcome(vendor, path, status, outcome) -> None:
    vendor.row_says = lambda text: status if text == "refund 1" else 200
    life = await live(vendor, path, pool(6))
    assert [answer.outcome for answer in life.answers] == ["ok", outcome, "ok", "ok", "ok", "ok"]
    assert life.answers[1].cost_usd == 0
    assert f"row {status}" in life.answers[1].reason
    again = await live(vendor, path, pool(6))
    assert [answer.outcome for answer in again.answers].count(outcome) == 1
    assert len(vendor.made) == 1
    assert account(path)[1] == 0
    assert_once(vendor, 5)


async def test_a_text_that_is_said_to_be_at_fault_is_so_in_a_batch_of_its_own(vendor, path) -> None:
    vendor.row_says = lambda text: 413
    life = await live(vendor, path, ["refund 1"])
    assert [answer.outcome for answer in life.answers] == ["invalid"]


async def test_a_text_that_was_rejected_is_known_by_texts_that_were_answered_in_other_batches(vendor, path) -> None:
    vendor.row_says = lambda text: 400 if text == "refund 1" else 200
    life = await live(vendor, path, pool(3), batch={"interval_seconds": 0.005, "calls": 1})
    assert [answer.outcome for answer in life.answers] == ["ok", "invalid", "ok"]


async def test_where_no_text_is_answered_it_is_for_none_of_them_and_one_is_named(vendor, path) -> None:
    vendor.row_says = lambda text: 400
    with pytest.raises(TeacherError, match=r"3 of the 3 calls .*\(3 × 400: row 400\)") as failure:
        await live(vendor, path, pool(3))
    assert failure.value.text in pool(3)
    vendor.row_says = lambda text: 200
    assert_right(await live(vendor, path, pool(3)), pool(3))


async def test_nor_where_many_are_rejected_alike_and_few_are_answered(vendor, path) -> None:
    vendor.row_says = lambda text: 200 if text == "refund 1" else 400
    with pytest.raises(TeacherError, match=r"29 of the 30 calls .*\(29 × 400: row 400\)"):
        await live(vendor, path, pool(30))
    vendor.row_says = lambda text: 200
    assert_right(await live(vendor, path, pool(30)), pool(30))


async def test_what_expired_was_paid_as_far_as_it_came_and_the_rest_is_in_the_next_round(vendor, path) -> None:
    vendor.finishes = [(4, "expired"), (3, "expired")]
    life = await live(vendor, path, pool(10))
    assert_right(life, pool(10))
    assert [len(made.requests) for made in vendor.made] == [10, 6, 3]
    assert_once(vendor, 10)


async def test_a_round_that_brings_nothing_is_the_last(vendor, path) -> None:
    vendor.finishes = [(2, "expired"), (0, "expired")]
    with pytest.raises(TeacherError, match=r"answered none of the calls .*3 × .*expired.*without --batch"):
        await live(vendor, path, pool(5))
    assert account(path)[1] == 0
    assert_right(await live(vendor, path, pool(5)), pool(5))
    assert_once(vendor, 5)


async def test_a_cancelled_batch_says_so_and_is_not_submitted_again_by_itself(vendor, path) -> None:
    vendor.finishes = [(2, "cancelled")]
    with pytest.raises(TeacherError, match=r"was cancelled at the vendor\. What was answered is kept"):
        await live(vendor, path, pool(5))
    assert len(vendor.made) == 1
    assert_right(await live(vendor, path, pool(5)), pool(5))
    assert_once(vendor, 5)


async def test_a_batch_that_the_vendor_finds_wrong_says_why(openai, path) -> None:
    openai.problem = [{"code": "invalid_json_line", "message": "line 7 is no JSON", "line": 7}]
    openai.finishes = [(0, "failed")]
    with pytest.raises(TeacherError, match=r"batch_0 .*failed: line 7 is no JSON"):
        await live(openai, path, pool(5))
    assert account(path) == (pytest.approx(2 * 3 * openai.cost), 0)


async def test_a_batch_that_the_vendors_queue_had_no_room_for_is_submitted_again(openai, path) -> None:
    openai.problem = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}]
    openai.finishes = [(None, "completed"), (0, "failed")]
    life = await live(openai, path, pool(10), batch={"interval_seconds": 0.005, "calls": 5})
    assert_right(life, pool(10))
    assert len(openai.made) == 3
    assert_once(openai, 10)


async def test_an_answer_that_cannot_be_read_is_paid_and_its_texts_own_where_others_can(vendor, path) -> None:
    texts = [*pool(4), "broken 1"]
    life = await live(vendor, path, texts)
    assert [answer.outcome for answer in life.answers] == ["ok"] * 4 + ["invalid"]
    assert life.answers[4].cost_usd == pytest.approx(vendor.cost)
    spent, reserved = account(path)
    probes = len(vendor.ordinary) * 2 * vendor.cost
    assert (spent, reserved) == (pytest.approx(5 * vendor.cost + probes), 0)
    await live(vendor, path, texts)
    assert len(vendor.made) == 1


async def test_answers_that_can_never_be_read_are_paid_and_not_kept(vendor, path) -> None:
    with pytest.raises(TeacherError, match=r"1 of the 1 calls .*paid for, but"):
        await live(vendor, path, ["broken 1"])
    spent, reserved = account(path)
    probes = len(vendor.ordinary) * 2 * vendor.cost
    assert (spent, reserved) == (pytest.approx(vendor.cost + probes), 0)


@pytest.mark.parametrize("trouble", [{"choices": []}, {"error": {"code": 502, "message": "bad gateway"}}])
async def test_a_servers_trouble_in_a_row_of_200_is_in_the_next_round(openai, path, trouble, monkeypatch) -> None:
    answered, left = openai.response, ["refund 1"]

    def response(body: dict[str, Any]) -> dict[str, Any]:
        if openai.text(body) not in left:
            return answered(body)
        left.remove(openai.text(body))
        return {**trouble, "usage": answered(body)["usage"]}

    monkeypatch.setattr(openai, "response", response)
    life = await live(openai, path, pool(3))
    assert_right(life, pool(3))
    assert [len(made.requests) for made in openai.made] == [3, 1]


async def test_a_row_of_200_that_never_holds_an_answer_is_its_texts_own(openai, path, monkeypatch) -> None:
    answered = openai.response

    def response(body: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [], "usage": {}} if openai.text(body) == "refund 1" else answered(body)

    monkeypatch.setattr(openai, "response", response)
    life = await live(openai, path, pool(3))
    assert [answer.outcome for answer in life.answers] == ["ok", "invalid", "ok"]
    assert [len(made.requests) for made in openai.made] == [3, 1]


async def test_what_does_not_say_its_tokens_costs_what_was_reserved(vendor, path) -> None:
    await live(vendor, path, pool(3))
    before, _ = account(path)
    vendor.usage = False
    await live(vendor, path, ["refund 7"])
    after, reserved = account(path)
    assert after - before > 3 * vendor.cost
    assert reserved == 0


@pytest.mark.parametrize(
    ("stage", "mishap"),
    [
        *(("create", mishap) for mishap in ("refuse 500", "500 after", "html", "truncate", "hang")),
        *(("look", mishap) for mishap in ("refuse 429", "html", "hang")),
        *(("results", mishap) for mishap in ("refuse 500", "html", "truncate", "hang")),
    ],
)
async def test_what_passes_is_waited_for_and_a_batch_is_submitted_once(
    vendor, path, monkeypatch, stage, mishap
) -> None:
    monkeypatch.setattr("distill.teachers.batch.base._SLOW_TIMEOUT", 0.3)
    vendor.mishaps = [(stage, mishap)]
    life = await live(vendor, path, pool(8), timeout_seconds=0.3)
    assert_right(life, pool(8))
    assert vendor.mishaps == []
    assert len(vendor.made) == 1
    assert_once(vendor, 8)
    assert account(path)[1] == 0


@pytest.mark.parametrize("stage", ["create", "look", "results"])
async def test_a_vendor_that_asks_to_be_left_alone_is_asked_again_after_a_minute_at_most(
    vendor, path, monkeypatch, stage
) -> None:
    monkeypatch.setattr(submit, "MINUTE", 0.01)
    monkeypatch.setattr(collect, "MINUTE", 0.01)
    vendor.mishaps = [(stage, "refuse 429 90")] * 6  # more than there are attempts
    life = await live(vendor, path, pool(8))
    assert_right(life, pool(8))
    assert len(vendor.made) == 1
    assert_once(vendor, 8)
    assert any("answered 429: refused, as told; it asks to be left alone for 90 s" in said for said in life.told)


async def test_a_vendor_that_asks_for_days_before_a_batch_is_made_ends_the_command(vendor, path, monkeypatch) -> None:
    monkeypatch.setattr(submit, "MINUTE", 0.01)
    monkeypatch.setattr(collect, "MINUTE", 0.01)
    vendor.mishaps = [("upload" if vendor.kind == "openai" else "create", "refuse 429 864000")] * 6
    with pytest.raises(TeacherError, match="left alone for 10 days"):
        await live(vendor, path, pool(4))
    assert account(path)[1] == 0


async def test_a_line_of_results_that_is_too_large_is_not_read(vendor, path) -> None:
    vendor.mishaps = [("results", "long line")]
    with pytest.raises(TeacherError, match=r"more than 0.0191 MiB.*max_response_bytes"):
        await live(vendor, path, pool(8), max_response_bytes=20_000)
    assert_right(await live(vendor, path, pool(8)), pool(8))


async def test_results_without_end_are_left(vendor, path) -> None:
    vendor.mishaps = [("results", "repeated")]
    with pytest.raises(TeacherError, match="without end"):
        await live(vendor, path, pool(4))
    assert_right(await live(vendor, path, pool(4)), pool(4))


@pytest.mark.parametrize("mishap", ["cut line", "lose lines", "other's"])
async def test_results_that_are_not_whole_or_anothers_are_fetched_again(vendor, path, mishap) -> None:
    vendor.mishaps = [("results", mishap)]
    life = await live(vendor, path, pool(8))
    assert_right(life, pool(8))
    assert_once(vendor, 8)


async def test_a_file_that_did_not_arrive_is_uploaded_again(openai, path) -> None:
    openai.mishaps = [("upload", "500 after"), ("upload", "refuse 503")]
    assert_right(await live(openai, path, pool(4)), pool(4))
    assert len(openai.made) == 1


async def test_a_submission_that_is_refused_reserves_nothing(vendor, path) -> None:
    vendor.mishaps = [("create", "refuse 400")]
    with pytest.raises(TeacherError, match="400"):
        await live(vendor, path, pool(4))
    assert account(path)[1] == 0
    assert vendor.made == []


async def test_a_server_without_batches_is_told(vendor, path) -> None:
    vendor.mishaps = [("upload" if vendor.kind == "openai" else "create", "refuse 404")]
    with pytest.raises(TeacherError, match=r"does this server have a batch API.*leave --batch out"):
        await live(vendor, path, pool(4))


async def test_a_teacher_without_a_batch_api_is_refused(path) -> None:
    class Plain:
        name = "local:x"

    with AnswerStore(path) as store, pytest.raises(TeacherError, match="local:x has no batch API: leave --batch out"):
        await runner.make_calls(Plain(), [("a", 0)], StoredBatchAccount(store, StoredAccount(store)))  # type: ignore[arg-type]


# Money


async def test_a_batch_is_reserved_at_its_worst_price_and_stays_so_after_a_restart(vendor, path) -> None:
    vendor.mishaps = [("look", "refuse 401")]
    with pytest.raises(ApiError, match="401"):
        await live(vendor, path, pool(6))
    spent, reserved = account(path)
    assert spent == pytest.approx(len(vendor.ordinary) * 2 * vendor.cost)
    teacher: Any = create(config(vendor), LABELS)
    planned = [await teacher.plan(text) for text in pool(6)]
    await teacher.aclose()
    assert reserved == pytest.approx(sum(api.max_cost(request) / 2 for ((api, request),) in planned))
    assert account(path) == (spent, reserved)
    assert_right(await live(vendor, path, pool(6)), pool(6))
    assert account(path) == (pytest.approx(spent + 6 * vendor.cost), 0)
    assert_once(vendor, 6)


async def test_a_batch_is_no_larger_than_the_money_and_what_it_gives_back_pays_for_the_next(vendor, path) -> None:
    teacher: Any = create(config(vendor), LABELS)
    ((api, request),) = await teacher.plan("billing 10")
    await teacher.aclose()
    await live(vendor, path, [])
    await live(vendor, path, ["billing 0"])
    spent, _ = account(path)
    life = await live(vendor, path, pool(12), max_usd=spent + 6.5 * api.max_cost(request) / 2)
    assert_right(life, pool(12))
    assert len(vendor.made) > 2
    assert max(len(made.requests) for made in vendor.made) == 6
    assert_once(vendor, 12)


async def test_without_money_for_one_call_nothing_is_submitted(vendor, path) -> None:
    await live(vendor, path, ["billing 0"])
    spent, _ = account(path)
    with pytest.raises(BudgetError, match="raise --max-usd"):
        await live(vendor, path, pool(4), max_usd=spent + 1e-6)
    assert len(vendor.made) == 1


async def test_ordinary_labelling_is_refused_while_batches_are_open(vendor, path) -> None:
    vendor.mishaps = [("look", "refuse 401")]
    with pytest.raises(ApiError):
        await live(vendor, path, pool(6))
    with AnswerStore(path) as store:
        book = StoredAccount(store)
        teacher = create(config(vendor), LABELS, book)
        with pytest.raises(TeacherError, match=r"6 calls to .* are in batches that are open.*label --batch"):
            runner.refuse_open(teacher, StoredBatchAccount(store, book))
        await teacher.aclose()
    await live(vendor, path, pool(6))
    with AnswerStore(path) as store:
        book = StoredAccount(store)
        teacher = create(config(vendor), LABELS, book)
        runner.refuse_open(teacher, StoredBatchAccount(store, book))
        await teacher.aclose()


async def test_a_batch_of_another_configuration_is_fetched_and_kept_for_it(vendor, path) -> None:
    vendor.mishaps = [("look", "refuse 401")]
    with pytest.raises(ApiError):
        await live(vendor, path, pool(6))
    life = await live(vendor, path, pool(3), prompt={"instructions": "Sort it."})
    assert_right(life, pool(3))
    assert len(vendor.made) == 2
    assert account(path)[1] == 0
    assert_right(await live(vendor, path, pool(6)), pool(6))
    assert len(vendor.made) == 2


async def test_a_batch_that_the_vendor_does_not_know_is_not_taken_for_unpaid(vendor, path, monkeypatch) -> None:
    vendor.mishaps = [("look", "refuse 401")]
    with pytest.raises(ApiError):
        await live(vendor, path, pool(6))
    _, reserved = account(path)
    (lost,), vendor.made = vendor.made, []
    with pytest.raises(TeacherError, match=r"knows nothing of batch .*key of the account"):
        await live(vendor, path, pool(6))
    assert account(path)[1] == reserved
    monkeypatch.setattr(collect, "_KEPT_BY_VENDORS", -1.0)
    spent, _ = account(path)
    await live(vendor, path, [])
    assert account(path) == (pytest.approx(spent + reserved), 0)
    assert len(lost.requests) == 6


# A process that ends


async def test_a_batch_of_someone_else_of_the_same_size_is_not_taken_for_ours(anthropic, path) -> None:
    body = {
        "messages": [{"content": "<text>\nrefund\n</text>"}],
        "output_config": {"format": {"schema": {"properties": {}}}},
    }
    anthropic.make([(f"theirs-{number}", body) for number in range(6)], {})
    anthropic.mishaps = [("create", "refuse 500")]
    assert_right(await live(anthropic, path, pool(6)), pool(6))
    assert len(anthropic.made) == 2
    ours = {json.dumps(body, sort_keys=True) for _, body in anthropic.made[1].requests}
    assert len(ours) == 6


STEPS = ("record", "submit before", "submit after", "submitted", "look", "settle before", "settle after", "close")


@pytest.mark.parametrize("step", STEPS)
async def test_an_exception_at_any_step_costs_nothing_twice(vendor, path, monkeypatch, step) -> None:
    """As if the process ended there: what follows the exception is not executed."""

    class EndError(Exception):
        pass

    teacher: Any = create(config(vendor), LABELS)
    (batch_api,) = teacher.batch_apis()
    await teacher.aclose()
    name, _, when = step.partition(" ")
    owner = type(batch_api) if name in ("submit", "look") else StoredBatchAccount
    with monkeypatch.context() as patched:
        original = getattr(owner, name)

        async def wrapped(self: Any, *given: Any, **named: Any) -> Any:
            if when == "before":
                raise EndError
            await original(self, *given, **named)
            raise EndError

        patched.setattr(owner, name, wrapped)
        with pytest.raises(EndError):
            await live(vendor, path, pool(6), batch={"interval_seconds": 0.005, "calls": 4})
    life = await live(vendor, path, pool(6), batch={"interval_seconds": 0.005, "calls": 4})
    assert_right(life, pool(6))
    assert_once(vendor, 6)
    spent, reserved = account(path)
    assert (spent, reserved) == (pytest.approx((6 + 2 * len(vendor.ordinary)) * vendor.cost), 0)
    assert sorted(len(made.requests) for made in vendor.made) in ([2, 4], [2, 2, 2])


HARNESS = """
import asyncio, json, os, sys
from pathlib import Path

from distill.labelling.batch_account import StoredBatchAccount
from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.teachers import create
from distill.teachers.batch import runner

path, config, labels, texts = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])


async def life():
    with AnswerStore(path) as store:
        book = StoredAccount(store)
        teacher = create({**config, "headers": {"x-pid": str(os.getpid())}}, labels, book)
        await runner.make_calls(teacher, [(text, 0) for text in texts], StoredBatchAccount(store, book))
        answers = await teacher.ask(texts)
        print(json.dumps([labels[int(answer.probabilities.argmax())] for answer in answers]), book.spent, book.reserved)
        await teacher.aclose()


while True:
    child = os.fork()
    if child == 0:
        asyncio.run(life())
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != -9:
        sys.exit(os.waitstatus_to_exitcode(status))
"""


async def test_a_process_killed_at_any_request_submits_and_pays_once(vendor, path) -> None:
    stages = (
        ["upload", "create", "look", "list", "results"] if vendor.kind == "openai" else ["create", "look", "results"]
    )
    vendor.mishaps = [(stage, when) for stage in stages for when in ("kill before", "kill after")]
    if vendor.kind == "openai":  # a list is asked for only where a submission was cut off
        vendor.mishaps = [mishap for mishap in vendor.mishaps if mishap[0] != "list"]
    expected = [stage for stage, _ in vendor.mishaps]
    texts = pool(7)
    given = [str(path), json.dumps(config(vendor)), json.dumps(LABELS), json.dumps(texts)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HARNESS, *given, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert vendor.killed == expected
    labels, spent, reserved = out.decode().strip().rsplit(" ", 2)
    assert json.loads(labels) == [text.split(" ")[0] for text in texts]
    assert_once(vendor, 7)
    assert len(vendor.made) == 1
    assert float(reserved) == pytest.approx(0, abs=1e-12)
    assert float(spent) == pytest.approx((7 + 2 * len(vendor.ordinary)) * vendor.cost)


async def test_memory_is_that_of_a_batch_and_not_of_the_pool(vendor, path) -> None:
    """What is planned and not submitted is never more than one batch."""
    largest = 0
    original = submit._Draft.add

    def add(self: Any, line: bytes, key: str, usd: float) -> None:
        nonlocal largest
        original(self, line, key, usd)
        largest = max(largest, len(self.calls))

    submit._Draft.add = add  # type: ignore[method-assign]
    try:
        await live(vendor, path, pool(60), batch={"interval_seconds": 0.005, "calls": 20})
    finally:
        submit._Draft.add = original  # type: ignore[method-assign]
    assert largest == 20
    assert np.mean([len(made.requests) for made in vendor.made]) == 20


async def test_another_draw_is_a_question_of_its_own(anthropic, path) -> None:
    questions = [("refund 1", 0), ("billing 2", 0), ("refund 1", 1)]
    with AnswerStore(path) as store:
        book = StoredAccount(store)
        teacher: Any = create(config(anthropic, method="votes", samples=2), LABELS, book)
        await runner.make_calls(teacher, questions, StoredBatchAccount(store, book))
        assert [await teacher.plan(*question) for question in questions] == [[], [], []]
        await teacher.aclose()
    assert [len(made.requests) for made in anthropic.made] == [6]


async def test_a_run_labels_its_pool_through_batches_and_forgets_none_of_it(anthropic, tmp_path, write_csv) -> None:
    for name, start in (("train", 0), ("test", 300)):
        write_csv(
            tmp_path / f"{name}.csv",
            [(f"{LABELS[n % 3]} {n} {hash_of(n)}", LABELS[n % 3]) for n in range(start, start + 60)],
        )
    task = {
        "name": "batched",
        "data": {
            "train": {"path": str(tmp_path / "train.csv"), "label": "label"},
            "test": {"path": str(tmp_path / "test.csv"), "label": "label"},
        },
        "teacher": config(anthropic),
        "labelling": {"self_agreement": 5},
        "students": {"words": {"family": "static", "model": "none"}},
    }
    run = Run(Task.model_validate(task), tmp_path / "run")
    run.make_data()
    anthropic.mishaps = [("look", "refuse 401")]
    with pytest.raises(ApiError, match="401"):
        await asyncio.to_thread(run.make_labels, LabellingOptions(batch=True))
    with pytest.raises(TeacherError, match="label --batch"):
        await asyncio.to_thread(run.make_labels)
    soft = await asyncio.to_thread(run.make_labels, LabellingOptions(batch=True))
    assert len(soft) == 120
    assert [soft.labels[choice] for choice in soft.hard] == [text.split(" ")[0] for text in soft.texts]
    assert_once(anthropic, 125)
    assert [len(made.requests) for made in anthropic.made] == [125]


def hash_of(number: int) -> str:
    """Words that no other number has, so that no two texts are near."""
    generator = random.Random(number)
    return " ".join("".join(generator.choices("abcdefghijklmnop", k=7)) for _ in range(6))


async def test_members_of_an_ensemble_have_their_own_batches_prices_and_readers(openai, path) -> None:
    """Two models, and one of them with two methods, whose answers the other method's reader does not take."""
    plain = config(openai)
    dear = {**plain, "model": "dear", "usd_per_million": {"input": 10.0, "output": 40.0}}
    voting = {**plain, "method": "votes", "samples": 1, "permutations": 1}
    original = openai.response

    def said(body: dict[str, Any]) -> dict[str, Any]:
        if "response_format" not in body:
            return original(body)
        content = json.dumps({"label": openai.text(body).split(" ")[0]})
        usage = {"prompt_tokens": 100, "completion_tokens": 1}
        return {"choices": [{"message": {"content": content}, "finish_reason": "stop"}], "usage": usage}

    openai.response = said
    members = [{"teacher": plain}, {"teacher": dear}, {"teacher": voting}]
    questions = [(text, 0) for text in pool(5)]
    answers: Sequence[Answer] = ()
    for mishaps in ([("look", "refuse 401")], []):
        openai.mishaps = list(mishaps)
        with AnswerStore(path) as store:
            book = StoredAccount(store)
            teacher = create({"kind": "ensemble", "members": members}, LABELS, book)
            try:
                await runner.make_calls(teacher, questions, StoredBatchAccount(store, book))
                answers = await teacher.ask(pool(5))
            except ApiError:
                assert mishaps
            finally:
                await teacher.aclose()
    assert_right(Life(answers), pool(5))
    assert openai.asked_alone == set()
    assert openai.charges == 15
    assert Counter(body["model"] for made in openai.made for _, body in made.requests) == {"m": 10, "dear": 5}
    assert answers[0].cost_usd == pytest.approx(12 * openai.cost)
    assert account(path)[1] == 0


async def test_a_batch_of_another_model_stays_reserved_until_that_model_is_asked_again(vendor, path) -> None:
    vendor.mishaps = [("look", "refuse 401")]
    with pytest.raises(ApiError):
        await live(vendor, path, pool(6))
    _, reserved = account(path)
    await live(vendor, path, pool(2), model="other")
    assert account(path)[1] == pytest.approx(reserved)
    assert_right(await live(vendor, path, pool(6)), pool(6))
    assert account(path)[1] == 0
    assert [len(made.requests) for made in vendor.made] == [6, 2]
