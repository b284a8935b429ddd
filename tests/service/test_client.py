"""The client reads answers into types, says what went wrong, and asks again when that helps."""

from __future__ import annotations

import json

import httpx
import pytest

from service.client import AsyncClient, Classification, Client, RefluxError, Result, Retry, Score

ANSWER = {
    "request_id": "r1",
    "model": "tiny",
    "version": "v1",
    "results": [
        {"label": "a", "score": 0.9, "top": [{"label": "a", "score": 0.9}], "tokens": 3, "truncated": False, "new": 1}
    ],
    "new": 1,
}
READ = Classification("r1", "tiny", "v1", (Result("a", 0.9, (Score("a", 0.9),), 3, False),))


def reply(status, **content):
    """What makes a response, afresh each time."""
    return lambda: httpx.Response(status, **content)


OK = reply(200, json=ANSWER)
FULL = reply(
    429, headers={"retry-after": "0"}, json={"error": {"code": "overloaded", "message": "full", "request_id": "r2"}}
)
QUICK = Retry(backoff_seconds=0.0)


class Service:
    """Plays back outcomes and keeps what it was asked."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome()


@pytest.fixture(params=["blocking", "async"])
def classify(request):
    """`await classify(service, texts, **options)` with either client."""

    async def ask(service, texts, *, retry=QUICK, base_url="http://reflux", **options):
        transport = httpx.MockTransport(service)
        if request.param == "blocking":
            with Client(base_url, retry=retry, transport=transport) as client:
                return client.classify(texts, **options)
        async with AsyncClient(base_url, retry=retry, transport=transport) as client:
            return await client.classify(texts, **options)

    return ask


async def test_an_answer_is_read_and_what_a_newer_service_adds_is_ignored(classify):
    assert await classify(Service(OK), "hello") == READ


@pytest.mark.parametrize(
    ("texts", "sent"),
    [
        ("a", {"text": "a", "top_k": 1}),
        (["a"], {"texts": ["a"], "top_k": 1}),
        (("a", "b"), {"texts": ["a", "b"], "top_k": 1}),
    ],
)
async def test_one_text_and_several_are_asked_for_as_what_they_are(classify, texts, sent):
    service = Service(OK)
    await classify(service, texts)
    assert json.loads(service.requests[0].content) == sent


async def test_top_k_request_id_and_a_path_before_ours_are_passed_on(classify):
    service = Service(OK)
    await classify(service, "a", top_k=3, request_id="mine", base_url="http://gateway/reflux/")
    asked = service.requests[0]
    assert json.loads(asked.content)["top_k"] == 3
    assert asked.headers["x-request-id"] == "mine"
    assert str(asked.url) == "http://gateway/reflux/classify"


@pytest.mark.parametrize("outcome", [FULL, reply(503, text="no"), httpx.ConnectError("no"), httpx.ReadError("no")])
async def test_what_may_pass_is_asked_again(classify, outcome):
    service = Service(outcome, outcome, OK)
    assert await classify(service, "a") == READ
    assert len(service.requests) == 3


@pytest.mark.parametrize(
    ("outcome", "code", "status", "request_id", "asked"),
    [
        (FULL, "overloaded", 429, "r2", 3),
        (httpx.ConnectError("refused"), "unreachable", None, None, 3),
        (httpx.ReadTimeout("slow"), "timeout", None, None, 1),
        (
            reply(422, json={"error": {"code": "invalid", "message": "text: no", "request_id": "r3"}}),
            "invalid",
            422,
            "r3",
            1,
        ),
        (reply(502, text="<html>"), "unexpected_answer", 502, None, 1),
        (reply(200, json={"hello": 1}), "unexpected_answer", 200, None, 1),
        (reply(200, json=[]), "unexpected_answer", 200, None, 1),
    ],
)
async def test_no_answer_is_one_error_that_says_why(classify, outcome, code, status, request_id, asked):
    service = Service(outcome)
    with pytest.raises(RefluxError) as failure:
        await classify(service, "a")
    error = failure.value
    assert (error.code, error.status_code, error.request_id) == (code, status, request_id)
    assert error.message
    assert len(service.requests) == asked


@pytest.mark.parametrize(("after", "pause"), [("2", 2.0), ("600", 5.0), ("0", 0.0)])
def test_retry_after_is_honoured_up_to_a_bound(after, pause):
    assert Retry().pause(1, httpx.Response(429, headers={"retry-after": after})) == pause


def test_without_retry_after_pauses_grow_and_vary():
    pauses = [Retry(attempts=9).pause(attempt, httpx.Response(503)) for attempt in (1, 2, 3, 8)]
    for pause, longest in zip(pauses, (0.1, 0.2, 0.4, 5.0), strict=True):
        assert longest / 2 <= pause <= longest


async def test_against_the_service(running):
    async with running() as app:
        async with AsyncClient("http://reflux", transport=app._transport) as client:
            answer = await client.classify(["invoice", "courier"], top_k=2, request_id="mine")
            assert answer.request_id == "mine"
            assert [result.label for result in answer.results] == ["billing", "shipping"]
            assert [len(result.top) for result in answer.results] == [2, 2]
            with pytest.raises(RefluxError, match="top_k") as failure:
                await client.classify("a", top_k=0)
            assert failure.value.code == "invalid"
