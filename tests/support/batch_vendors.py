"""Vendors of batches that speak their protocols, and lose, reorder, expire, hang and kill as a test says."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.labelling.batch_account import StoredBatchAccount
from distill.teachers import create
from distill.teachers.api.errors import ApiError
from distill.teachers.base import Answer
from distill.teachers.batch import runner

LABELS = ("billing", "refund", "shipping")
GROUP_OF = {"billing": "money", "refund": "money", "shipping": "goods"}
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
    row_says: Callable[[str], int] = lambda text: 200
    finishes: list[tuple[int | None, str]] = field(default_factory=list)
    usage: bool = True
    shuffle: random.Random = field(default_factory=lambda: random.Random(3))
    killed: list[str] = field(default_factory=list)

    kind = ""
    mark = ""

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        stage = self.stage(request.method, request.url.path)
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

    def shown(self, made: Made) -> dict[str, Any]:
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

    def page(self, request: httpx.Request, after: str) -> httpx.Response:
        """Two batches of the list, the newest first; few, so that there are several pages."""
        rows = [self.shown(made) for made in reversed(self.made)]
        if after in request.url.params:
            rows = rows[[row["id"] for row in rows].index(request.url.params[after]) + 1 :]
        return ok({"data": rows[:2], "has_more": len(rows) > 2})

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
            return self.page(request, "after")
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
        label = self.text(body).split(" ")[0]
        choice: dict[str, Any] = {"finish_reason": "stop"}
        if "response_format" in body:
            asked = body["response_format"]["json_schema"]["schema"]["properties"]
            both = [f"{self.text(body)}, that is", f"that is {self.text(body)}"]
            said = {"paraphrases": both} if "paraphrases" in asked else {"label": label.upper()}
            choice["message"] = {"content": json.dumps(said)}
        else:
            options = [line.split(": ") for line in body["messages"][0]["content"].splitlines() if ": " in line[:5]]
            code_of = {name.split(" -")[0]: code for code, name, *_ in options}
            code = code_of.get(label) or code_of.get(GROUP_OF.get(label, ""), "A")
            listed = [{"token": code, "logprob": math.log(0.99)}, {"token": "The", "logprob": math.log(0.005)}]
            logprobs = None if "broken" in self.text(body) else {"content": [{**listed[0], "top_logprobs": listed}]}
            choice |= {"message": {"content": code}, "logprobs": logprobs}
        usage = {"prompt_tokens": 100, "completion_tokens": 10 if "batch" in self.text(body) else 1}
        return {"choices": [choice], "model": f"{body['model']}-2026-01", **({"usage": usage} if self.usage else {})}

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
            return self.page(request, "after_id")
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
            "model": f"{body['model']}-2026-01",
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


def config(vendor: Vendor, *, calls: int | None = None, **settings: Any) -> dict[str, Any]:
    """A teacher of this vendor, whose batches have `calls` calls at most."""
    given = {"kind": vendor.kind, "base_url": vendor.base_url, "model": "m", "usd_per_million": PRICE, "attempts": 2}
    if vendor.kind == "anthropic":
        given["method"] = "verbalised"
    return {**given, "batch": {"interval_seconds": 0.005, "calls": calls}, **settings}


def pool(count: int) -> list[str]:
    return [f"{LABELS[number % 3]} {number}" for number in range(count)]


@dataclass
class Life:
    """What one process did: answers where it came to them, what the account says, what was told."""

    answers: Sequence[Answer] = ()
    told: list[str] = field(default_factory=list)
    spent: float = 0.0
    reserved: float = 0.0


async def live(vendor: Vendor, path: Path, texts: list[str], *, max_usd: float | None = None, **settings: Any) -> Life:
    """Fill the account and ask for each text, in a store that was closed before and is closed after."""
    life = Life()
    with AnswerStore(path) as store:
        book = StoredAccount(store, max_usd)
        teacher = create(config(vendor, **settings), LABELS, book)
        try:
            await runner.make_calls(
                teacher, [(text, 0) for text in texts], StoredBatchAccount(store, book), notify=life.told.append
            )
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


async def leave_open(vendor: Vendor, path: Path) -> None:
    """Submit a batch of six texts, and end before its results."""
    vendor.mishaps = [("look", "refuse 401")]
    with pytest.raises(ApiError, match="401"):
        await live(vendor, path, pool(6))
