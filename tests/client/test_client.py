"""The client reads answers into types, reports why a call failed, and retries when that helps and time is left."""

import asyncio
import inspect
import itertools
import json
import pickle
import socket
import subprocess
import sys
import threading
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest

from reflux_client import AsyncClient, Classification, Client, RefluxError, Result, Retry, Score
from tests.support.clock import Clock
from tests.support.http_server import serving
from tests.support.sockets import address_of, tcp_server
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]

RESULT = {"label": "a", "score": 0.9, "top": [{"label": "a", "score": 0.9}], "tokens": 3, "truncated": False, "new": 1}
ANSWER = {"request_id": "r1", "model": "tiny", "version": "v1", "results": [RESULT], "new": 1}
READ = Classification("r1", "tiny", "v1", (Result("a", 0.9, (Score("a", 0.9),), 3, False),))


def reply(status, **content):
    """Return a function that makes a new response each time."""
    return lambda: httpx.Response(status, **content)


def failing(status, code, message="no", **headers):
    """An error of the service."""
    return reply(
        status, headers=headers, json={"error": {"code": code, "message": message, "request_id": f"r{status}"}}
    )


def full(after):
    return failing(429, "overloaded", **{"retry-after": after})


OK = reply(200, json=ANSWER)
QUICK = Retry(backoff_seconds=0.0)


class Service:
    """Plays back outcomes, repeats the last one, and records the requests."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.requests = []
        self.headers = []

    def __call__(self, request):
        self.requests.append(request)
        self.headers.append(request.headers.copy())
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome()


def labelled(request, refused=None):
    """Answer each text with itself as its label; fail on a request with the text `refused`."""
    texts = json.loads(request.content)["texts"]
    if refused in texts:
        return failing(500, "inference_failed")()
    return httpx.Response(200, json=ANSWER | {"results": [RESULT | {"label": text} for text in texts]})


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("REFLUX_API_KEY", raising=False)


@pytest.fixture(params=[Client, AsyncClient])
def connect(request):
    """`async with connect(service, **options) as client`, with either client."""

    @asynccontextmanager
    async def connect(service, *, retry=QUICK, base_url="http://reflux", clock=None, **options):
        client = request.param(base_url, retry=retry, transport=httpx.MockTransport(service), **options)
        if clock is not None:
            client._calls = replace(client._calls, clock=clock)
            client._sleep = clock.asleep if request.param is AsyncClient else clock.sleep
        try:
            yield client
        finally:
            await settled(client.aclose() if request.param is AsyncClient else client.close())

    return connect


async def settled(value):
    """The value, awaited if it is awaitable."""
    return await value if inspect.isawaitable(value) else value


async def iterated(results):
    """The results of either client's classify_many, asynchronously."""
    if hasattr(results, "__aiter__"):
        async for result in results:
            yield result
    else:
        for result in results:
            yield result


async def listed(results, given=None):
    """The labels of the results, also appended to `given` as they come."""
    given = [] if given is None else given
    async for result in iterated(results):
        given.append(result.label)
    return given


async def ask(connect, service, texts="a", *, clock=None, client=None, **options):
    async with connect(service, clock=clock, **(client or {})) as connected:
        return await settled(connected.classify(texts, **options))


@pytest.mark.parametrize(
    ("more", "read"),
    [
        ({}, {}),
        (
            {"labels": ["a", "c"], "logits": [2.5, -1], "embedding": [0.5, 0.25]},
            {"labels": ("a", "c"), "logits": (2.5, -1), "embedding": (0.5, 0.25)},
        ),
    ],
)
async def test_an_answer_is_read_and_unknown_fields_are_ignored(connect, more, read):
    answer = await ask(connect, Service(reply(200, json=ANSWER | {"results": [RESULT | more]})))
    assert answer == replace(READ, results=(replace(READ.results[0], **read),))


@pytest.mark.parametrize(
    ("texts", "options", "body", "headers"),
    [
        ("a", {}, {"text": "a", "top_k": 1}, {}),
        (["a"], {"top_k": 3}, {"texts": ["a"], "top_k": 3}, {}),
        (("a",), {"logits": True}, {"texts": ["a"], "top_k": 1, "logits": True}, {}),
        ("a", {"embedding": True}, {"text": "a", "top_k": 1, "embedding": True}, {}),
        ("a", {"request_id": "mine"}, {"text": "a", "top_k": 1}, {"x-request-id": "mine"}),
        ("a", {"variant": "candidate"}, {"text": "a", "top_k": 1}, {"x-reflux-variant": "candidate"}),
    ],
)
async def test_a_request_has_what_is_wanted_and_no_more(connect, texts, options, body, headers):
    service = Service(OK)
    await ask(connect, service, texts, client={"base_url": "http://gateway/reflux/"}, **options)
    assert json.loads(service.requests[0].content) == body
    ours = ("x-reflux-variant", "x-request-id", "authorization")
    assert {name: value for name, value in service.headers[0].items() if name in ours} == headers
    assert str(service.requests[0].url) == "http://gateway/reflux/classify"


@pytest.mark.parametrize(
    "outcome",
    [
        full("0"),
        full("0.001"),
        reply(503, text="no"),
        httpx.ConnectError("no"),
        httpx.ConnectTimeout("no"),
        httpx.PoolTimeout("no"),
        httpx.ReadError("no"),
        httpx.WriteError("no"),
        httpx.RemoteProtocolError("no"),
    ],
)
async def test_a_failure_that_may_pass_is_retried(connect, outcome):
    service = Service(outcome, outcome, OK)
    assert await ask(connect, service) == READ
    assert len(service.requests) == 3


@pytest.mark.parametrize(
    ("outcome", "code", "status", "request_id", "asked"),
    [
        (full("0"), "overloaded", 429, "r429", 3),
        (httpx.ConnectError("refused"), "unreachable", None, None, 3),
        (httpx.ReadTimeout("slow"), "timeout", None, None, 1),
        (httpx.WriteTimeout("slow"), "timeout", None, None, 1),
        (httpx.UnsupportedProtocol("no http://"), "unreachable", None, None, 1),
        (httpx.DecodingError("not gzip"), "unexpected_answer", None, None, 1),
        *((failing(status, "x"), "x", status, f"r{status}", 1) for status in (400, 401, 404, 413, 422, 500, 504)),
        (failing(504, "deadline", **{"retry-after": "0"}), "deadline", 504, "r504", 1),
        (reply(502, text="<html>"), "unexpected_answer", 502, None, 1),
        (reply(200, text="<html>"), "unexpected_answer", 200, None, 1),
        (reply(200, json={"hello": 1}), "unexpected_answer", 200, None, 1),
        (reply(200, json=[]), "unexpected_answer", 200, None, 1),
        (reply(200, json=ANSWER | {"results": [RESULT, RESULT]}), "unexpected_answer", 200, None, 1),
        (reply(400, json={"error": "no"}), "unexpected_answer", 400, None, 1),
    ],
)
async def test_a_failed_call_is_one_error_that_says_why(connect, outcome, code, status, request_id, asked):
    service = Service(outcome)
    with pytest.raises(RefluxError) as failure:
        await ask(connect, service)
    error = failure.value
    assert (error.code, error.status_code, error.request_id) == (code, status, request_id)
    assert error.message
    assert error.texts is None
    assert len(service.requests) == asked


def test_an_error_can_be_pickled():
    error = RefluxError("overloaded", "full", status_code=429, request_id="r1")
    error.texts = range(2, 4)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == ("overloaded: full (texts 2 to 3)", vars(error))


# Deadlines


async def test_each_attempt_sends_the_time_left_and_none_starts_after_the_deadline(connect):
    clock = Clock(0.0)

    def slow():
        clock.now += 3
        return full("2.5")()

    service = Service(slow)
    with pytest.raises(RefluxError, match="overloaded"):
        await ask(connect, service, clock=clock, client={"timeout": 10, "retry": Retry(attempts=9)})
    assert [headers["x-request-timeout-ms"] for headers in service.headers] == ["10000", "4500"]
    assert clock.pauses == [2.5]


@pytest.mark.parametrize(("after", "pauses"), [("9.5", [9.5]), ("10", []), ("3600", [])])
async def test_a_pause_beyond_the_deadline_is_not_started(connect, after, pauses):
    clock, service = Clock(0.0), Service(full(after), OK)
    with nullcontext() if pauses else pytest.raises(RefluxError, match="overloaded"):
        assert await ask(connect, service, clock=clock) == READ
    assert clock.pauses == pauses


@pytest.mark.parametrize(("timeout", "sent"), [(2.5, "2500"), (0.0001, "1"), (None, "10000")])
async def test_a_call_may_have_a_timeout_of_its_own(connect, timeout, sent):
    service = Service(OK)
    await ask(connect, service, timeout=timeout, clock=Clock(0.0))
    assert service.headers[0]["x-request-timeout-ms"] == sent


async def test_without_time_nothing_is_sent(connect):
    service = Service(OK)
    with pytest.raises(RefluxError, match="timeout"):
        await ask(connect, service, timeout=-0.5)
    assert service.requests == []


async def test_a_pause_that_overran_the_deadline_is_followed_by_no_attempt(connect):
    clock, service = Clock(0.0), Service(full("1"))
    clock.sleep = lambda seconds: setattr(clock, "now", 99.0)  # type: ignore[method-assign]
    with pytest.raises(RefluxError, match="timeout"):
        await ask(connect, service, clock=clock)
    assert len(service.requests) == 1


async def test_every_wait_of_httpx_is_bounded_by_what_is_left_when_it_begins(connect):
    clock, seen = Clock(0.0), []

    def look(request):
        timeouts = request.extensions["timeout"]
        for now, wait in ((0, "pool"), (1, "connect"), (8.5, "connect"), (9, "write"), (9.5, "read"), (11, "read")):
            clock.now = now
            seen.append(timeouts.get(wait))
        return OK()

    await ask(connect, look, clock=clock, client={"timeout": 10, "connect_timeout": 3})
    assert seen == [10, 3, 1.5, 1, 0.5, 0.001]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
async def test_a_call_without_an_end_is_refused(connect, seconds):
    with pytest.raises(ValueError, match="finite"):
        await ask(connect, Service(OK), timeout=seconds)


@pytest.mark.parametrize("name", ["timeout", "connect_timeout"])
@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_timeout_is_a_number_of_seconds(client, seconds, name):
    with pytest.raises(ValueError, match="seconds"):
        client("http://reflux", **{name: seconds})


# Pauses

NOON = "Wed, 21 Oct 2015 12:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "600"}, 600.0),
        ({"retry-after": "Wed, 21 Oct 2015 12:00:07 GMT", "date": NOON}, 7.0),
        ({"retry-after": "Wed, 21 Oct 2015 11:59:00 GMT", "date": NOON}, 0.0),
        ({"retry-after": NOON}, 0.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured_in_seconds_and_as_a_date(status, headers, pause):
    assert Retry().pause(1, httpx.Response(status, headers=headers), 1000) == pause


def test_a_date_without_the_servers_own_is_compared_with_our_clock():
    response = httpx.Response(429, headers={"retry-after": "Thu, 31 Dec 2399 23:59:59 GMT"})
    assert Retry().pause(1, response, 10) is None
    assert Retry().pause(1, response, 1e12) > 1e9


@pytest.mark.parametrize(
    "after",
    ["", "soon", "-1", "nan", "inf", "1e3", "Wed, 99 Oct 2015 12:00:00 GMT", f"Wed, 21 Oct {9**30} 12:00:00 GMT"],
)
def test_a_malformed_retry_after_is_ignored(after):
    assert 0.05 <= Retry().pause(1, httpx.Response(429, headers={"retry-after": after, "date": NOON}), 10) <= 0.1


def test_without_retry_after_pauses_grow_and_vary():
    retry = Retry(attempts=10_000)
    pauses = [retry.pause(attempt, httpx.Response(503), 10) for attempt in (1, 2, 3, 8, 9_999)]
    for pause, longest in zip(pauses, (0.1, 0.2, 0.4, 5.0, 5.0), strict=True):
        assert longest / 2 <= pause <= longest
    assert len({retry.pause(1, httpx.Response(503), 10) for _ in range(9)}) > 1


# The key


@pytest.mark.parametrize(
    ("options", "variable", "sent"),
    [
        ({"api_key": "mine-1234"}, None, "Bearer mine-1234"),
        ({}, "theirs-1", "Bearer theirs-1"),
        ({"api_key": "mine-1234"}, "theirs-1", "Bearer mine-1234"),
        ({"api_key": ""}, "theirs-1", None),
        ({}, "", None),
        ({"headers": {"Authorization": "Basic xyz"}}, "theirs-1", "Basic xyz"),
    ],
)
async def test_the_key_sent_is_that_of_the_caller_else_that_of_the_environment(
    connect, monkeypatch, options, variable, sent
):
    if variable is not None:
        monkeypatch.setenv("REFLUX_API_KEY", variable)
    service = Service(OK)
    await ask(connect, service, client=options)
    assert service.headers[0].get("authorization") == sent


async def test_the_key_is_not_shown(connect):
    service = Service(failing(401, "unauthorized", "no such key: secret-1234"))
    async with connect(service, api_key="secret-1234") as client:
        with pytest.raises(RefluxError, match=r"no such key: \*\*\*") as failure:
            await settled(client.classify("a"))
        assert "secret" not in repr(client) + repr(vars(client)) + repr(failure.value) + repr(vars(failure.value))


@pytest.mark.parametrize("key", ["secret\n", "sec ret", "sécret"])
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(client, key, monkeypatch):
    with pytest.raises(ValueError, match=r"^api_key has characters") as failure:
        client("http://reflux", api_key=key)
    assert key.strip() not in str(failure.value)
    monkeypatch.setenv("REFLUX_API_KEY", key)
    with pytest.raises(ValueError, match=r"^REFLUX_API_KEY has characters"):
        client("http://reflux")


# Many texts


@pytest.mark.parametrize("count", [0, 1, 6, 7])
async def test_many_texts_are_answered_in_order_by_full_requests(connect, count):
    service = Service(OK)
    texts = [f"t{index}" for index in range(count)]
    async with connect(lambda request: (service(request), labelled(request))[1]) as client:
        assert await listed(client.classify_many(iter(texts), batch_size=3)) == texts
    sizes = [len(json.loads(request.content)["texts"]) for request in service.requests]
    assert sorted(sizes, reverse=True) == [3] * (count // 3) + [count % 3] * (count % 3 > 0)


async def test_requests_for_many_texts_have_the_same_options(connect):
    service = Service(OK)
    options = {"top_k": 2, "logits": True, "embedding": True}
    async with connect(service) as client:
        await listed(client.classify_many(["x"], variant="stable", **options))
    assert json.loads(service.requests[0].content) == {"texts": ["x"], **options}
    assert service.headers[0]["x-reflux-variant"] == "stable"


@pytest.mark.parametrize(("concurrency", "ahead"), [(1, 2), (3, 6)])
async def test_texts_are_taken_only_as_they_are_needed(connect, concurrency, ahead):
    taken = []

    def endless():
        for index in itertools.count():
            taken.append(index)
            yield str(index)

    async with connect(labelled) as client:
        results = client.classify_many(endless(), batch_size=2, concurrency=concurrency)
        assert taken == []
        given = 0
        async for result in iterated(results):
            assert result.label == str(given)
            given += 1
            assert len(taken) <= given + ahead
            if given == 20:
                break
        await settled(results.close() if isinstance(client, Client) else results.aclose())


async def test_results_before_a_failure_are_given_and_the_failure_names_its_texts(connect):
    given = []
    async with connect(partial(labelled, refused="5")) as client:
        results = client.classify_many(feed(client, 100), batch_size=2, concurrency=3)
        with pytest.raises(RefluxError, match=r"inference_failed: no \(texts 4 to 5\)") as failure:
            await listed(results, given)
    assert given == ["0", "1", "2", "3"]
    assert (failure.value.texts, failure.value.request_id) == (range(4, 6), "r500")


async def test_an_error_of_the_iterable_is_raised(connect):
    def broken():
        yield "a"
        raise OSError("disk")

    async with connect(labelled) as client:
        with pytest.raises(OSError, match="disk"):
            await listed(client.classify_many(broken(), batch_size=1))
    assert not running_threads()


@pytest.mark.parametrize(
    ("texts", "options", "error"),
    [("hello", {}, TypeError), (["a"], {"batch_size": 0}, ValueError), (["a"], {"concurrency": 0}, ValueError)],
)
async def test_wrong_arguments_are_refused_at_once(connect, texts, options, error):
    async with connect(labelled) as client:
        with pytest.raises(error):
            client.classify_many(texts, **options)


def feed(client, count):
    """The numbers below `count` as texts, from an asynchronous iterable for an AsyncClient."""
    texts = map(str, range(count))

    async def source():
        for text in texts:
            await asyncio.sleep(0)
            yield text

    return source() if isinstance(client, AsyncClient) else texts


def running_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("reflux")]


def test_threads_ask_at_once_and_are_gone_at_the_end():
    together = threading.Barrier(3, timeout=PATIENCE)

    def meet(request):
        together.wait()
        return labelled(request)

    with Client("http://reflux", transport=httpx.MockTransport(meet)) as client:
        results = client.classify_many(map(str, range(6)), batch_size=1, concurrency=3)
        assert [result.label for result in results] == list("012345")
    assert not running_threads()


def test_leaving_early_ends_the_pauses_of_threads_and_the_threads():
    asked = []
    second = threading.Event()

    def answer(request):
        asked.append(json.loads(request.content)["texts"])
        if asked[-1] == ["0"]:
            second.wait(PATIENCE)
            return labelled(request)
        second.set()
        return full(str(PATIENCE))()

    with Client("http://reflux", transport=httpx.MockTransport(answer), timeout=PATIENCE * 100) as client:
        results = client.classify_many(map(str, itertools.count()), batch_size=1, concurrency=2)
        assert next(results).label == "0"
        results.close()
    assert sorted(asked) == [["0"], ["1"]]
    assert not running_threads()


async def test_tasks_ask_at_once():
    together = asyncio.Barrier(3)

    async def meet(request):
        async with asyncio.timeout(PATIENCE):
            await together.wait()
        return labelled(request)

    async with AsyncClient("http://reflux", transport=httpx.MockTransport(meet)) as client:
        results = client.classify_many(feed(client, 7), batch_size=3, concurrency=3)
        assert [result.label async for result in results] == list("0123456")


async def test_leaving_early_cancels_what_is_in_flight():
    waiting, cancelled = asyncio.Semaphore(0), []

    async def hang(request):
        texts = json.loads(request.content)["texts"]
        if texts == ["0"]:
            for _ in range(2):
                await waiting.acquire()
            return labelled(request)
        try:
            waiting.release()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.extend(texts)
            raise

    before = asyncio.all_tasks()
    async with AsyncClient("http://reflux", transport=httpx.MockTransport(hang)) as client:
        async with (
            asyncio.timeout(PATIENCE),
            aclosing(client.classify_many(map(str, itertools.count()), batch_size=1, concurrency=3)) as results,
        ):
            assert (await anext(results)).label == "0"
        assert sorted(cancelled) == ["1", "2"]
        assert asyncio.all_tasks() == before


async def test_a_cancelled_caller_leaves_no_task_behind():
    begun, before = asyncio.Event(), asyncio.all_tasks()

    async def hang(request):
        begun.set()
        await asyncio.Event().wait()

    async with AsyncClient("http://reflux", transport=httpx.MockTransport(hang)) as client:
        task = asyncio.create_task(listed(client.classify_many(map(str, range(9)), batch_size=1)))
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert asyncio.all_tasks() == before


# The other routes


async def test_model_and_gap_are_what_the_service_says(connect):
    service = Service(reply(503), reply(200, json={"name": "tiny"}))
    async with connect(service, base_url="http://gateway/reflux") as client:
        assert await settled(client.model()) == {"name": "tiny"}
        assert await settled(client.gap()) == {"name": "tiny"}
    asked = [(request.method, str(request.url)) for request in service.requests]
    assert asked == [("GET", f"http://gateway/reflux/{path}") for path in ("model", "model", "gap")]


async def test_a_model_that_is_no_object_is_an_error(connect):
    with pytest.raises(RefluxError, match="unexpected_answer"):
        async with connect(Service(reply(200, json=["hello"]))) as client:
            await settled(client.model())


@pytest.mark.parametrize(
    ("outcome", "ready"),
    [
        (reply(200, json={"status": "ok"}), True),
        (failing(503, "not_ready"), False),
        (reply(503, text="<html>"), False),
        (httpx.ConnectError("refused"), False),
        (httpx.ReadTimeout("slow"), False),
        (reply(404, text="no"), None),
        (reply(200, text="<html>"), None),
        (httpx.UnsupportedProtocol("no"), None),
    ],
)
async def test_readiness_is_asked_once_and_what_can_never_be_ready_is_an_error(connect, outcome, ready):
    service = Service(outcome)
    async with connect(service) as client:
        with pytest.raises(RefluxError) if ready is None else nullcontext():
            assert await settled(client.ready()) is ready
    assert [request.url.path for request in service.requests] == ["/readyz"]


# Real sockets


@pytest.mark.parametrize(("limits", "made"), [({}, 1), ({"limits": httpx.Limits(max_keepalive_connections=0)}, 3)])
async def test_connections_are_kept_unless_limits_say_otherwise(limits, made):
    connections = set()

    def answer(request):
        connections.add(tuple(request.extensions["client"]))
        return labelled(request)

    async with serving(answer) as server, AsyncClient(server.url, timeout=PATIENCE, **limits) as client:
        for _ in range(3):
            assert (await client.classify(["a"])).results[0].label == "a"
    assert len(connections) == made


async def test_a_broken_connection_is_replaced():
    body = json.dumps(ANSWER).encode()
    replies = [b"", b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)]

    async def answer(reader, writer):
        await reader.readuntil(b"}")
        writer.write(replies.pop(0))
        writer.close()

    async with tcp_server(answer) as address, AsyncClient(f"http://{address}", timeout=PATIENCE, retry=QUICK) as client:
        assert await client.classify(["a"]) == READ
    assert replies == []


def test_a_service_that_never_answers_costs_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it listens, but accepts nothing
        with Client(f"http://{address_of(silent)}", timeout=0.05) as client:
            with pytest.raises(RefluxError, match="timeout"):
                client.classify("a")


# What it needs

ALONE = """
import sys

with_httpx = {"httpx", "httpcore", "h11", "anyio", "idna", "certifi", "typing_extensions", "exceptiongroup"}
allowed = sys.stdlib_module_names | with_httpx | {"reflux_client"}

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)

import httpx
from reflux_client import AsyncClient, Client, RefluxError

error = {"code": "unauthorized", "message": "no", "request_id": "r"}
transport = httpx.MockTransport(lambda request: httpx.Response(401, json={"error": error}))
try:
    Client("http://127.0.0.1:1", transport=transport).classify("a")
except RefluxError as failure:
    print(failure.code)
try:
    import pydantic
except ModuleNotFoundError:
    print("pydantic is missing")
"""


def test_it_needs_httpx_alone():
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT / "client", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "unauthorized\npydantic is missing\n"), done.stderr
