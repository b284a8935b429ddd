"""Calls over real sockets: what a server asks for is obeyed by all who call, and keys stay where they belong."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from distill.teachers.account import NoAccount
from distill.teachers.api.client import Api, ApiRequest
from distill.teachers.api.config import ApiConfig
from distill.teachers.api.errors import ApiError, error_of_status
from distill.teachers.api.pricing import Price, Usage
from tests.support.waiting import until

KEY = "sk-secret-0123456789"
NOW = datetime(2026, 11, 24, 8, tzinfo=UTC)


class Server:
    """Answers 429 with some headers first, then 200; or always with one reply that repeats the key it was sent."""

    def __init__(self, refusals: Sequence[dict[str, str]] = (), status: int = 200) -> None:
        self.refusals = list(refusals)
        self.status = status
        self.asked: list[tuple[float, httpx.Request]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((time.monotonic(), request))
        headers = self.refusals.pop(0) if self.refusals else {}
        said = f"no good: {request.headers.get('authorization')} {request.headers.get('api-key')}"
        return httpx.Response(429 if headers else self.status, headers=headers, json={"error": {"message": said}})


def api(base_url: str, **settings: Any) -> Api:
    config = ApiConfig(
        **{"base_url": base_url, "model": "m", "key_env": "K", "usd_per_million": Price(input=1, output=1)} | settings
    )
    key = config.key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return Api(config, NoAccount(), name="it", headers=headers, usage=lambda _: Usage(input=1))


async def ask(made: Api, text: str = "hi") -> None:
    await made.call(ApiRequest("/chat", {"text": text}, max_output=1), lambda response: None)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "300"}, 0.3),
        ({"retry-after": "0.3"}, 0.3),
        ({"retry-after": "1"}, 1.0),
        ({"date": format_datetime(NOW, usegmt=True), "retry-after": format_datetime(NOW + timedelta(seconds=1))}, 1.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "300ms"}, 0.3),
    ],
)
async def test_what_a_429_asks_for_holds_everybody_back(serve, headers, seconds) -> None:
    server = Server([headers])
    made = api(await serve(server))
    refused = asyncio.create_task(ask(made, "refused"))
    await until(lambda: len(server.asked) > 1 or made._limiter._delay(1.0), pause=0)  # until the client has read it
    await asyncio.gather(refused, ask(made, "another"), ask(made, "a third"))
    await made.aclose()
    assert len(server.asked) == 4
    refused_at = server.asked[0][0]
    assert min(moment for moment, _ in server.asked[1:]) >= refused_at + seconds - 0.01


async def test_a_base_url_may_have_a_query_and_a_header_the_key(serve, monkeypatch) -> None:
    monkeypatch.setenv("AZURE_KEY", f" {KEY}\n")
    server = Server()
    root = await serve(server)
    azure = {"headers": {"api-key": "$AZURE_KEY", "x-team": "costs $$5"}}
    made = api(f"{root}/openai/deployments/d?api-version=2024-10-21", **azure)
    other = api(f"{root}/openai/deployments/d?api-version=2025-04-01", **azure)
    await ask(made)
    await made.aclose()
    await other.aclose()
    _, request = server.asked[0]
    assert request.url.raw_path == b"/openai/deployments/d/chat?api-version=2024-10-21"
    assert (request.headers["api-key"], request.headers["x-team"]) == (KEY, "costs $5")
    assert "authorization" not in request.headers
    chat = ApiRequest("/chat", {}, max_output=1)
    assert made.key(chat) != other.key(chat)


@pytest.mark.parametrize("status", [400, 401, 403, 500])
@pytest.mark.parametrize("settings", [{}, {"key_env": "NONE", "headers": {"api-key": "$K"}}, {"key_file": "key"}])
async def test_a_key_is_in_no_error_version_or_repr(
    serve, monkeypatch, tmp_path: Path, caplog, status: int, settings: dict[str, Any]
) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    if "key_file" in settings:
        settings = {"key_file": tmp_path / "key"}
    else:
        monkeypatch.setenv("K", KEY)
    caplog.set_level("DEBUG")
    server = Server(status=status)
    made = api(await serve(server), attempts=1, **settings)
    with pytest.raises(ApiError, match=r"\*\*\*") as failure:
        await ask(made)
    await made.aclose()
    assert KEY in str(dict(server.asked[0][1].headers))  # it was sent, and the server repeats it
    told = [str(failure.value), repr(failure.value), failure.value.reason, repr(made.config), repr(made.__dict__)]
    assert not any(KEY in one for one in [*told, json.dumps(made.config.answering())])
    assert KEY not in "".join(record.getMessage() for record in caplog.records if record.name != "httpcore.http11")


def test_a_quota_that_comes_back_is_waited_for_and_no_empty_account() -> None:
    quota = "You exceeded your current quota, please check your plan and billing details."
    again = error_of_status(429, [{"error": {"code": 429, "message": f"{quota}\nPlease retry in 36s."}}], quota, "it")
    assert again.retryable
    assert again.wait == 36.0
    empty = error_of_status(429, {"error": {"message": quota}}, quota, "it")
    assert not empty.retryable
    assert "no money left" in str(empty)
