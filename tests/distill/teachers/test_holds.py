"""A server that asks to be left alone is: for a minute at a time, by all calls, and without using up their attempts.

All against a clock that moves only when all sleep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from distill.teachers.account import NoAccount
from distill.teachers.api.client import Api, ApiRequest
from distill.teachers.api.config import ApiConfig
from distill.teachers.api.errors import ApiError
from distill.teachers.api.pricing import Price, Usage
from distill.teachers.errors import TeacherError
from distill.teachers.openai import OpenAIConfig, OpenAITeacher
from tests.support.fake_clock import now, with_fake_clock
from tests.support.model_server import ModelServer

_TAKES = 0.001


class Busy:
    """Refuses for the first `seconds` of its life, and answers after them. `asked` has when it was asked."""

    def __init__(self, headers: Mapping[str, str], seconds: float, status: int = 429) -> None:
        self.headers, self.seconds, self.status = dict(headers), seconds, status
        self.asked: list[float] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        asked_at = now()
        self.asked.append(asked_at)
        await asyncio.sleep(_TAKES)
        if asked_at < self.seconds:
            return httpx.Response(self.status, headers=self.headers, json={"error": {"message": "slow down"}})
        return httpx.Response(200, json={})


def api(server: Busy, **settings: Any) -> Api:
    config = ApiConfig(
        base_url="http://it", model="m", key_env="K", usd_per_million=Price(input=1, output=1), **settings
    )
    usage = Usage(input=1)
    return Api(config, NoAccount(), name="it", headers={}, usage=lambda _: usage, transport=httpx.MockTransport(server))


async def ask(made: Api) -> None:
    await made.call(ApiRequest("/chat", {}, max_output=1), lambda response: None)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "90"},
        {"retry-after-ms": "90000"},
        {"llm_provider-retry-after": "90"},
        {"date": "Tue, 24 Nov 2026 08:00:00 GMT", "retry-after": "Tue, 24 Nov 2026 08:01:30 GMT"},
        {"retry-after": "1800"},
    ],
)
@with_fake_clock
async def test_all_calls_hold_for_the_minute_and_ask_again(headers: dict[str, str], status: int) -> None:
    server = Busy(headers, 900, status)
    made = api(server)
    await asyncio.gather(*(ask(made) for _ in range(3)))
    assert server.asked[:3] == [0.0] * 3
    assert min(server.asked[3:]) >= 60.0
    assert 900 <= now() < 961  # of which attempts that count would have lasted for six minutes
    assert len(server.asked) <= 3 * 17


@pytest.mark.parametrize("headers", [{}, {"anthropic-ratelimit-requests-remaining": "0"}])
@with_fake_clock
async def test_a_429_that_names_a_reset_alone_is_heard_too(headers: dict[str, str]) -> None:
    limits = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}
    server = Busy(headers | limits, 900)
    await ask(api(server))
    assert 900 <= now() < 1021


@pytest.mark.parametrize(
    ("asked", "said"), [("86400", "24 h"), ("5e8", "5,787 days"), ("172800", "2 days"), ("7200", "2 h")]
)
@with_fake_clock
async def test_a_server_that_asks_for_far_too_much_ends_the_call_and_is_quoted(asked: str, said: str) -> None:
    server = Busy({"retry-after": asked}, float("inf"))
    with pytest.raises(ApiError, match=f"slow down; it asks to be left alone for .*({said})"):
        await ask(api(server, attempts=3))
    assert len(server.asked) == 3
    assert now() < 150


@pytest.mark.parametrize("value", ["-90", "nan", "soon", "0", "0.2", ""])
@with_fake_clock
async def test_what_makes_no_sense_or_asks_for_nothing_uses_up_attempts(value: str) -> None:
    server = Busy({"retry-after": value}, float("inf"))
    with pytest.raises(ApiError, match=r"answered 429: slow down$"):
        await ask(api(server))
    assert len(server.asked) == 6


@with_fake_clock
async def test_a_server_that_asks_for_ever_is_waited_for_as_long_as_patience_lasts() -> None:
    server = Busy({"retry-after": "90"}, float("inf"))
    with pytest.raises(ApiError, match="left alone for 90 s"):
        await ask(api(server, patience_seconds=600, attempts=2))
    assert now() == pytest.approx(660, abs=5)


@with_fake_clock
async def test_waits_that_the_server_asked_for_leave_the_attempts_for_what_else_goes_wrong() -> None:
    server = Busy({"retry-after": "61"}, 200)
    made = api(server, attempts=2)
    failed = iter([False] * 4 + [True, False])

    async def sometimes(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500) if next(failed) else await server(request)

    made.client = httpx.AsyncClient(base_url="http://it", transport=httpx.MockTransport(sometimes))
    await ask(made)


@with_fake_clock
async def test_a_wait_is_said_once_a_minute_whoever_waits(caplog) -> None:
    made = api(Busy({"retry-after": "90"}, 100))
    await asyncio.gather(*(ask(made) for _ in range(8)))
    assert [record.getMessage() for record in caplog.records if record.name.startswith("distill")] == [
        "it answered 429 and asks to be left alone for 90 s; all calls wait, and ask again in a minute at most"
    ] * 2


@with_fake_clock
async def test_stopping_ends_a_wait_at_once() -> None:
    made = api(Busy({"retry-after": "90"}, float("inf")))
    waiting = [asyncio.create_task(ask(made)) for _ in range(3)]
    await asyncio.sleep(10)
    assert made.held == pytest.approx(50, abs=0.01)
    made.stop()
    for one in waiting:
        with pytest.raises(TeacherError, match="stopped"):
            await one
    assert now() == 10.0


@pytest.mark.parametrize(("refusals", "method"), [(5, "logprobs"), (10**6, None)])
@with_fake_clock
async def test_a_tokenizer_that_is_busy_is_asked_again_and_never_taken_for_none(
    refusals: int, method: str | None
) -> None:
    model = ModelServer(lambda options, text: dict.fromkeys(options, 0.9 / len(options)))
    left = refusals

    def serve(request: httpx.Request) -> httpx.Response:
        nonlocal left
        if request.url.path == "/tokenize" and left:
            left -= 1
            return httpx.Response(429, headers={"retry-after": "90"}, json={})
        return model(request)

    config = OpenAIConfig(base_url="http://vllm:8000/v1", model="m", usd_per_million=Price(input=0, output=0))
    labels = [f"label {number}" for number in range(26)]
    made = OpenAITeacher(config, labels, NoAccount(), transport=httpx.MockTransport(serve))
    if method is None:
        with pytest.raises(ApiError, match=r"tokenize.*429"):
            await made.ask(["a text"])
    else:
        (answer,) = await made.ask(["a text"])
        assert (answer.method, answer.tail) == (method, pytest.approx(0.0, abs=1e-9))
    await made.aclose()
