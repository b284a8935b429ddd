"""Plain requests skip ASGI, and clients see no difference: the same answers, errors and counts, and no leak."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import weakref
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
import uvloop
from structlog.testing import capture_logs

from service.http.context import RequestContext
from service.inference.types import Submission
from service.server import fast_path
from service.server.fast_path import FastRequest
from service.server.middleware import RequestMiddleware
from service.server.reader import Reader
from tests.support.raw_request import request
from tests.support.waiting import PATIENCE, until

LIMIT = 1000
SETTINGS = {"max_body_bytes": LIMIT, "max_texts": 8, "max_characters": 200, "queue_limit": 8}
INVOICE = b'{"text":"invoice"}'
CHUNKED: dict[str, Any] = {"chunked": True}
BOTH_PATHS = pytest.mark.parametrize("special", [{}, CHUNKED], ids=["fast path", "ASGI"])


SPECIAL = {
    "in chunks": CHUNKED,
    "by HTTP/1.0": {"version": "1.0"},
    "by HTTP/1.0, to stay": {"version": "1.0", "connection": "keep-alive"},
    "closing": {"connection": "close"},
    "with a charset": {"content_type": "application/json; charset=utf-8"},
    "with a query": {"target": "/classify?a=b"},
    "by its absolute URL": {"target": "http://reflux/classify"},
}


@pytest.fixture(scope="module")
def event_loop_policy():
    """The event loop of production: loops differ in what a transport does when its client disconnects."""
    return uvloop.EventLoopPolicy()


@pytest.fixture
def asgi(monkeypatch):
    """The paths of the requests that go through ASGI."""
    paths = []
    serve = RequestMiddleware.__call__

    async def spy(middleware, scope, receive, send):
        paths.append(scope["path"])
        await serve(middleware, scope, receive, send)

    monkeypatch.setattr(RequestMiddleware, "__call__", spy)
    return paths


@pytest.fixture
def hold(connect, gate):
    """`await hold(serving)`: a connection whose request waits at the closed gate."""

    async def hold(serving):
        gate.close()
        connection = await connect(serving.port)
        connection.writer.write(request(INVOICE))
        await gate.held()
        return connection

    return hold


async def stop(serving):
    """Tell a server to stop, and wait until it has begun."""
    serving.stop()
    await until(lambda: (b"connection", b"close") in serving.server.server_state.default_headers)


def unanswered(serving):
    """Return how many requests wait for an answer of a model."""
    return sum(model.scheduler.open for model in serving.app.state.reflux.models)


async def exchange(connection, data):
    """Send bytes and read an answer: its status, its headers without the date, and its JSON."""
    connection.writer.write(data)
    return await answer(connection)


async def answer(connection):
    status, headers, body = await connection.receive()
    assert headers.pop("date")
    return status, headers, body


async def ask(connection, body=INVOICE, /, **options):
    return await exchange(connection, request(body, **options))


def samples(serving):
    """Return the values of all metrics but durations and those of the process."""
    models = serving.app.state.reflux.models
    registries = [serving.app.state.reflux.metrics.registry, *(part for model in models for part in model.registries)]
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for registry in registries
        for family in registry.collect()
        for sample in family.samples
        if sample.value > 0
        if sample.name.startswith("reflux_") and not sample.name.endswith(("seconds_sum", "_bucket"))
    }


def requests(serving, **labels):
    """Return how many requests were counted with these labels."""
    wanted = {(name, str(value)) for name, value in labels.items()}
    return sum(
        count
        for (name, *found), count in samples(serving).items()
        if name == "reflux_http_requests_total" and wanted <= set(found)
    )


def answers(serving):
    """Return how many requests had each outcome."""
    counted = samples(serving).items()
    return {dict(labels)["outcome"]: count for (name, *labels), count in counted if name == "reflux_answers_total"}


def depth(serving):
    return samples(serving).get(("reflux_queue_depth",), 0)


@contextmanager
def uncollected():
    """Turn the garbage collector off: reference counts alone free objects."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def kept():
    """Return how many requests are still in memory, by the most frequent of their objects."""
    kinds = (FastRequest, RequestContext, Submission)
    return max(Counter(type(thing) for thing in gc.get_objects() if isinstance(thing, kinds)).values(), default=0)


@pytest.mark.parametrize("special", SPECIAL.values(), ids=SPECIAL)
async def test_a_plain_request_takes_the_fast_path_and_gets_the_same_answer(listening, connect, asgi, special):
    async with listening() as serving:
        status, headers, body = await ask(await connect(serving.port), x_request_id="mine")
        assert (status, asgi) == (200, [])
        assert set(headers) == {"content-type", "content-length", "x-request-id"}
        usual = await ask(await connect(serving.port), x_request_id="mine", **special)
        usual[1].pop("connection", None)
        assert usual == (status, headers, body)
        assert asgi == ["/classify"]


async def test_a_request_gets_its_own_id_or_keeps_the_given_one(listening, connect):
    async with listening() as serving:
        connection = await connect(serving.port)
        found = [await ask(connection) for _ in range(3)]
        found.append(await ask(connection, chunked=True))
        ids = [headers["x-request-id"] for _, headers, _ in found]
        assert ids == [body["request_id"] for _, _, body in found]
        assert len(set(ids)) == 4
        assert {len(given) for given in ids} == {32}
        for given, kept in (("Mine-1", True), ("not safe", False)):
            _, _, body = await ask(connection, x_request_id=given)
            assert (body["request_id"] == given) is kept


ASKED = [
    ({"text": "invoice"}, {}, 200),
    ({"texts": ["invoice", "my parcel is late", "ünïcödé ☃ login"], "top_k": 3}, {}, 200),
    ({"text": "crash", "top_k": 9, "logits": True, "embedding": True}, {}, 200),
    ({"text": "invoice " * 25}, {}, 200),
    ({"text": "poison"}, {}, 500),
    ({"texts": ["invoice", "poison"]}, {}, 500),
    ({"texts": ["a"] * 9}, {}, 422),
    ({"text": "a" * 201}, {}, 422),
    ({"text": "invoice"}, {"x_request_timeout_ms": "soon"}, 422),
    ({"text": "invoice"}, {"x_request_timeout_ms": "0.000001"}, 429),
    ({"text": "invoice"}, {"x_reflux_variant": "stable"}, 200),
    ({"text": "invoice"}, {"x_reflux_variant": "candidate"}, 422),
]


async def test_answers_errors_counts_and_log_lines_are_the_same_on_both_paths(listening, connect, asgi):
    async def ask_all(**special):
        async with listening(access_log=True, batch_tokens=0, **SETTINGS) as serving:
            connection = await connect(serving.port)
            with capture_logs() as logs:
                found = []
                for body, headers, status in ASKED:
                    options = {"x_request_id": "mine", **headers, **special}
                    found.append(await ask(connection, json.dumps(body).encode(), **options))
                    assert found[-1][0] == status, found[-1]
            lines = [{**event, "ms": None, "exc_info": None} for event in logs]
            return found, samples(serving), lines

    found, counted, lines = await ask_all()
    assert asgi == []
    usual, usually_counted, usual_lines = await ask_all(chunked=True)
    assert len(asgi) == len(ASKED)
    for (status, headers, body), (usual_status, usual_headers, usual_body) in zip(found, usual, strict=True):
        if status == 429:  # its message holds a measured number of seconds
            assert int(headers.pop("retry-after")) == int(usual_headers.pop("retry-after")) == 1
            for error in (body["error"], usual_body["error"]):
                assert error.pop("message").startswith("an answer may take")
                assert error == {"code": "overloaded", "request_id": "mine"}
            del headers["content-length"], usual_headers["content-length"]
        assert (status, headers, body) == (usual_status, usual_headers, usual_body)
    assert counted == usually_counted
    assert lines == usual_lines
    assert [line["code"] for line in lines if line["event"] == "request"] == [status for *_, status in ASKED]


@pytest.fixture
def parsed(monkeypatch):
    """The bytes that HTTP's parser has read."""
    read = []
    parse = Reader._parse

    def spy(connection, data):
        read.append(data)
        parse(connection, data)

    monkeypatch.setattr(Reader, "_parse", spy)
    return read


async def test_a_known_head_is_not_parsed_again_and_its_requests_are_answered_and_counted_alike(
    listening, connect, parsed
):
    async with listening(batch_tokens=0, **SETTINGS) as serving:
        statuses, counts = [], []
        for _ in range(3):
            connection = await connect(serving.port)
            found = [await ask(connection, json.dumps(body).encode(), **headers) for body, headers, _ in ASKED]
            statuses.append([status for status, *_ in found])
            counts.append((requests(serving), len(parsed)))
        assert statuses == [[status for *_, status in ASKED]] * 3
        assert [total for total, _ in counts] == [len(ASKED), 2 * len(ASKED), 3 * len(ASKED)]
        assert len({read for _, read in counts}) == 1


async def test_anything_may_follow_a_known_head(served, parsed, asgi):
    serving, connection = served
    other = b'{"text": 12345678}'
    assert len(other) == len(INVOICE)
    whole, whole_other = request(INVOICE), request(other)
    assert [(await exchange(connection, whole))[0] for _ in range(2)] == [200, 200]
    assert (parsed, asgi) == ([whole], [])
    assert (await exchange(connection, whole_other))[0] == 422
    assert requests(serving, code=422) == 1
    for pieces in ([whole[:-5], whole[-5:]], [whole[:30], whole[30:]], [whole + whole_other], [whole + whole[:-3]]):
        for piece in pieces:
            connection.writer.write(piece)
            await connection.writer.drain()
            await asyncio.sleep(0.01)
        assert (await answer(connection))[0] == 200
        if whole_other in pieces[0]:
            assert (await answer(connection))[0] == 422
    connection.writer.write(whole[-3:])
    assert (await answer(connection))[0] == 200
    assert requests(serving) == 9


async def test_behind_a_known_head_the_whole_body_is_waited_for_even_if_its_beginning_is_json(served):
    _, connection = served
    whole = request(INVOICE + b"  ")
    assert (await exchange(connection, whole))[0] == 200
    connection.writer.write(whole[:-2])
    await connection.writer.drain()
    await asyncio.sleep(0.01)
    assert (await exchange(connection, whole[-2:]))[0] == 200
    assert (await exchange(connection, whole))[0] == 200


@pytest.mark.parametrize(
    "first",
    [
        request(INVOICE, x_request_id="mine"),
        request(INVOICE, traceparent="mine"),
        request(INVOICE, x_long="a" * 1024),
        request(INVOICE, chunked=True),
        request(INVOICE) + request(INVOICE),
    ],
)
async def test_a_head_that_is_not_that_of_one_plain_request_or_will_not_come_again_is_not_kept(served, first, parsed):
    _, connection = served
    for _ in range(2):
        connection.writer.write(first)
        for _ in range(first.count(b"POST")):
            assert (await answer(connection))[0] == 200
    assert b"".join(parsed) == first * 2


async def test_a_known_head_needs_its_key_each_time(listening, connect, write_keys):
    path = write_keys(tickets="right")
    async with listening(api_keys=path, **SETTINGS) as serving:
        connection = await connect(serving.port)
        for key, status in (("right", 200), ("right", 200), ("wrong", 401), ("wrong", 401)):
            assert (await ask(connection, x_api_key=key))[0] == status
        serving.app.state.requests.keys = None
        assert (await ask(connection, x_api_key="wrong"))[0] == 200


async def test_only_so_many_heads_are_kept(served, monkeypatch, parsed):
    monkeypatch.setattr(fast_path, "_MOST_HEADS", 2)
    _, connection = served
    for name in ("a", "b", "c", "a", "a"):
        assert (await ask(connection, user_agent=name))[0] == 200
    assert len(parsed) == 4


@pytest_asyncio.fixture
async def served(listening, connect):
    """A server with small limits, and a connection to it."""
    async with listening(**SETTINGS) as serving:
        connection = await connect(serving.port)
        yield serving, connection
        connection.close()


@pytest.mark.parametrize(
    ("body", "options", "status", "code"),
    [
        (b"", {}, 400, "malformed"),
        (b'{"text": 1}', {}, 422, "invalid"),
        (INVOICE, {"content_type": "text/plain"}, 415, "unsupported_media_type"),
        (INVOICE, {"content_type": None}, 415, "unsupported_media_type"),
        (b"", {"length": LIMIT + 1}, 413, "too_large"),
        (b" " * LIMIT + INVOICE, {}, 413, "too_large"),
        (b" " * LIMIT + INVOICE, CHUNKED, 413, "too_large"),
        (INVOICE, {"method": "PUT"}, 405, "method_not_allowed"),
        (INVOICE, {"method": "GET"}, 405, "method_not_allowed"),
        (INVOICE, {"target": "/classify/"}, 404, "not_found"),
        (INVOICE, {"target": "//classify"}, 404, "not_found"),
    ],
)
async def test_what_the_fast_path_does_not_accept_gets_the_error_of_asgi(served, connect, body, options, status, code):
    serving, connection = served
    found, headers, content = await ask(connection, body, x_request_id="mine", **options)
    assert (found, headers["content-type"], headers["x-request-id"]) == (status, "application/json", "mine")
    assert (content["error"]["code"], content["error"]["request_id"]) == (code, "mine")
    assert content["error"]["message"]
    assert requests(serving, code=status) == requests(serving) == 1
    assert (await ask(await connect(serving.port)))[0] == 200


async def test_a_body_may_be_as_large_as_the_limit(served, asgi):
    _, connection = served
    assert (await ask(connection, INVOICE + b" " * (LIMIT - len(INVOICE))))[0] == 200
    assert asgi == []
    assert (await ask(connection, INVOICE + b" " * (LIMIT - len(INVOICE) + 1)))[0] == 413
    assert asgi == ["/classify"]


async def test_a_body_of_another_protocol_is_answered_in_that_protocol(served, asgi):
    serving, connection = served
    status, _, body = await ask(connection, b'{"model": "tiny", "input": ["invoice", "courier"]}')
    assert (status, asgi) == (200, ["/classify"])
    assert [row[0]["label"] for row in body["data"]] == ["billing", "shipping"]
    assert (await ask(connection, b'{"model": "tiny", "input": 1}'))[0] in (400, 422)
    assert requests(serving) == 2


PIPELINED: list[dict[str, Any]] = [
    {},
    {},
    CHUNKED,
    {},
    {"target": "/nope"},
    {"target": "/classify?a"},
    {"body": b'{"text": 1}'},
    {"body": b'{"text": "poison"}'},
    {"x_request_timeout_ms": "soon"},
    {},
]


@pytest.mark.parametrize("workers", [0, 1])
async def test_pipelined_requests_are_answered_once_and_in_order(listening, connect, workers):
    async with listening(workers=workers) as serving:
        for several in (PIPELINED, PIPELINED[::-1], *itertools.permutations(PIPELINED[1:4])):
            connection = await connect(serving.port)
            data = [request(**{"body": INVOICE, **one}, x_request_id=str(at)) for at, one in enumerate(several)]
            connection.writer.write(b"".join(data))
            found = [await answer(connection) for _ in several]
            assert [headers["x-request-id"] for _, headers, _ in found] == [str(at) for at in range(len(several))]
            expected = {"/nope": 404, b'{"text": 1}': 422, b'{"text": "poison"}': 500, "soon": 422}
            wanted = [next((expected[value] for value in one.values() if value in expected), 200) for one in several]
            assert [status for status, _, _ in found] == wanted
            connection.writer.write_eof()
            assert await connection.ended()


async def test_a_plain_request_is_not_answered_before_an_earlier_one(listening, connect, gate):
    async with listening() as serving:
        for first, second in ([{}, CHUNKED], [CHUNKED, {}], [{}, {}]):
            gate.close()
            connection = await connect(serving.port)
            for at, special in enumerate((first, second)):
                connection.writer.write(request(INVOICE, x_request_id=str(at), **special))
                await connection.writer.drain()
                await gate.held()
            gate.opened.set()
            ids = [(await answer(connection))[1]["x-request-id"] for _ in range(2)]
            assert ids == ["0", "1"]


@pytest.mark.parametrize("size", [1, 7, 50])
async def test_a_request_in_pieces_is_assembled(served, asgi, size):
    _, connection = served
    body = json.dumps({"texts": ["my invoice is late", "courier"]}).encode()
    whole = await ask(connection, body, x_request_id="mine")
    data = request(body, x_request_id="mine")
    for at in range(0, len(data), size):
        connection.writer.write(data[at : at + size])
        await connection.writer.drain()
        await asyncio.sleep(0)
    assert await answer(connection) == whole
    assert asgi == []


async def test_a_connection_is_reused_until_the_client_closes_it(served, asgi):
    serving, connection = served
    for special in ({}, CHUNKED, {}, {}):
        assert (await ask(connection, **special))[0] == 200
    assert len(asgi) == 1
    status, headers, _ = await ask(connection, connection="close")
    assert (status, headers["connection"]) == (200, "close")
    assert await connection.ended()
    assert requests(serving, code=200) == 5


async def test_an_idle_connection_keeps_no_body(served):
    serving, connection = served
    await ask(connection)
    (kept,) = serving.server.server_state.connections
    assert kept.cycle.response_complete
    assert kept.cycle.parts == []


@BOTH_PATHS
async def test_a_client_that_disconnects_frees_its_places_and_is_counted_once(listening, connect, gate, hold, special):
    async with listening(**SETTINGS, access_log=True) as serving:
        held, leaving, next_one = await hold(serving), await connect(serving.port), await connect(serving.port)
        leaving.writer.write(request(json.dumps({"texts": ["courier"] * 7}).encode(), x_request_id="gone", **special))
        await until(lambda: depth(serving) == 7)
        with capture_logs() as logs:
            leaving.close()
            await until(lambda: requests(serving))
        assert depth(serving) == 0
        assert answers(serving) == {"left": 1}
        assert requests(serving, code=499, route="/classify", method="POST") == requests(serving) == 1
        assert [(event["request_id"], event["code"]) for event in logs] == [("gone", 499)]
        assert unanswered(serving) == 1, "the one in its run"
        next_one.writer.write(request(json.dumps({"texts": ["courier"] * 8}).encode(), **special))
        await until(lambda: depth(serving) == 8)
        gate.opened.set()
        assert [(await answer(one))[0] for one in (held, next_one)] == [200, 200]
        await until(lambda: not unanswered(serving))
        assert answers(serving) == {"left": 1, "ok": 2}
        assert (await ask(held))[0] == 200


async def test_a_client_that_disconnects_during_its_run_is_counted_once(listening, connect, gate, hold):
    async with listening() as serving:
        leaving = await hold(serving)
        leaving.close()
        await until(lambda: answers(serving))
        gate.opened.set()
        assert (await ask(await connect(serving.port)))[0] == 200
        assert answers(serving) == {"left": 1, "ok": 1}
        assert (requests(serving, code=499), requests(serving, code=200)) == (1, 1)
        await until(lambda: not unanswered(serving))


@pytest.mark.parametrize("special", [{}, {"target": "/classify?a"}], ids=["fast path", "ASGI"])
async def test_a_client_that_disconnects_in_the_middle_of_its_body_is_counted(listening, connect, special):
    async with listening() as serving:
        leaving = await connect(serving.port)
        leaving.writer.write(request(INVOICE, length=100, **special))
        await leaving.writer.drain()
        await until(lambda: any(connection.cycle is not None for connection in serving.server.server_state.connections))
        leaving.close()
        await until(lambda: requests(serving))
        assert requests(serving, code=499) == 1
        assert (answers(serving), unanswered(serving)) == ({}, 0)


async def test_a_model_whose_client_left_can_be_released(listening, connect, gate, hold, make_bundle, tmp_path, words):
    path = make_bundle(tmp_path / "served").path
    async with listening(bundle=path, shutdown_seconds=600) as serving:
        (before,) = serving.app.state.reflux.models
        leaving = await hold(serving)
        leaving.close()
        await until(lambda: answers(serving))
        gate.opened.set()
        make_bundle(path, labels=tuple(words)[::-1])
        await serving.app.state.reflux.models.reload()
        await until(lambda: not before.scheduler.alive)
        assert (await ask(await connect(serving.port)))[0] == 200


@pytest.fixture
def crowding(listening, connect, gate, monkeypatch):
    """`async with crowding(**settings) as crowded`: a server whose queue is full until `crowded.open()`.

    A request waits on `waiting`. On `connection` one was refused, by the full queue, with the answer `usual`.
    """
    monkeypatch.setattr("service.inference.overload._CALM_SECONDS", 600.0)

    @asynccontextmanager
    async def crowding(headers=MappingProxyType({}), **settings):
        async with listening(**SETTINGS, **settings) as serving:
            gate.close()
            running, waiting, connection = [await connect(serving.port) for _ in range(3)]
            running.writer.write(request(INVOICE, **headers))
            await gate.held()
            waiting.writer.write(request(json.dumps({"texts": ["courier"] * 8}).encode(), **headers))
            await until(lambda: depth(serving) == 8)
            usual = await ask(connection, x_request_id="mine", **headers)
            assert usual[0] == 429
            try:
                yield SimpleNamespace(
                    serving=serving, connection=connection, waiting=waiting, usual=usual, open=gate.opened.set
                )
            finally:
                gate.opened.set()
            assert [(await answer(one))[0] for one in (running, waiting)] == [200, 200]

    return crowding


@BOTH_PATHS
async def test_a_full_queue_refuses_whole_requests_with_retry_after_and_is_counted(crowding, special):
    async with crowding(special) as crowded:
        status, headers, body = crowded.usual
        assert (status, body["error"]["code"], body["error"]["request_id"]) == (429, "overloaded", "mine")
        assert int(headers["retry-after"]) >= 1
        assert depth(crowded.serving) == 8, "nothing of a refused request waits"
        assert answers(crowded.serving) == {"overloaded": 1}
        assert requests(crowded.serving, code=429) == 1
        assert unanswered(crowded.serving) == 2
        for path in ("/livez", "/readyz"):
            assert (await ask(crowded.connection, b"", method="GET", target=path))[0] == 200


async def test_under_overload_requests_are_refused_before_their_json_is_read(crowding, connect):
    async with crowding() as crowded:
        serving, connection = crowded.serving, crowded.connection
        for one in (connection, await connect(serving.port)):
            for body in (INVOICE, b"not JSON"):
                assert await ask(one, body, x_request_id="mine") == crowded.usual
        _, headers, body = await ask(connection)
        assert headers["x-request-id"] == body["error"]["request_id"] != "mine"
        crowded.open()
        await until(lambda: depth(serving) == 0)
        assert (await ask(connection))[0] == 200
        await until(lambda: answers(serving) == {"overloaded": 6, "ok": 3})
        assert requests(serving, code=429, route="/classify", method="POST") == 6
        assert unanswered(serving) == 0


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"x_request_timeout_ms": "soon"}, 422, "invalid"),
        ({"content_type": "text/plain"}, 415, "unsupported_media_type"),
    ],
    ids=["deadline", "content type"],
)
async def test_under_overload_a_head_that_is_never_answered_is_still_an_error_of_the_client(
    crowding, headers, status, code
):
    async with crowding() as crowded:
        found, _, body = await ask(crowded.connection, **headers)
        assert (found, body["error"]["code"]) == (status, code)


async def test_a_refusal_under_overload_costs_a_key_nothing(crowding, write_keys):
    keys = write_keys(load="a" * 20, team="b" * 20 + ":rate=0.001/s")
    async with crowding({"x_api_key": "a" * 20}, api_keys=keys) as crowded:
        for _ in range(4):
            status, _, body = await ask(crowded.connection, x_api_key="b" * 20)
            assert (status, body["error"]["code"]) == (429, "overloaded")


MINE = request(INVOICE, x_request_id="mine")
INNER = request(INVOICE, x_request_id="inner")


@pytest.mark.parametrize(
    "pieces",
    [
        *((MINE[:at], MINE[at:]) for at in (1, 30, -1)),
        (request(b"", length=len(INNER), x_request_id="mine"), INNER),
        (b"POST /classify HTTP/1.1\r\nx-first: ", MINE),
    ],
    ids=["cut at 1", "cut at 30", "cut before its end", "a body that is a request", "a header that is a request"],
)
async def test_under_overload_a_request_in_two_pieces_is_refused_too(crowding, pieces):
    async with crowding() as crowded:
        first, second = pieces
        crowded.connection.writer.write(first)
        await until(lambda: any(one._reading for one in crowded.serving.server.server_state.connections))
        crowded.connection.writer.write(second)
        assert await answer(crowded.connection) == crowded.usual
        _, headers, _ = await ask(crowded.connection, x_request_id="next")
        assert headers["x-request-id"] == "next"


async def test_under_overload_pipelined_requests_are_refused_in_order(crowding):
    async with crowding() as crowded:
        crowded.connection.writer.write(request(INVOICE, x_request_id="mine") * 2)
        assert [await answer(crowded.connection) for _ in range(2)] == [crowded.usual] * 2


async def test_under_overload_nothing_is_refused_before_an_earlier_request_is_answered(crowding):
    async with crowding() as crowded:
        crowded.waiting.writer.write(request(INVOICE, x_request_id="behind"))
        await until(lambda: any(one.pipeline for one in crowded.serving.server.server_state.connections))
        assert await ask(crowded.connection, x_request_id="mine") == crowded.usual
    assert (await answer(crowded.waiting))[1]["x-request-id"] == "behind"


async def test_refused_requests_are_in_the_access_log(crowding):
    async with crowding(access_log=True) as crowded:
        with capture_logs() as logs:
            for _ in range(2):
                assert await ask(crowded.connection, x_request_id="mine") == crowded.usual
        assert [(event["request_id"], event["code"]) for event in logs] == [("mine", 429)] * 2


async def test_a_refusal_during_the_stop_closes_the_connection(crowding):
    async with crowding(idle_grace_seconds=600) as crowded:
        assert await ask(crowded.connection, x_request_id="mine") == crowded.usual
        await stop(crowded.serving)
        crowded.connection.writer.write(request(INVOICE, x_request_id="mine"))
        status, headers, body = await answer_while_closing(crowded.connection)
        assert (status, headers["connection"], body) == (429, "close", crowded.usual[2])
        assert await crowded.connection.ended()


@BOTH_PATHS
async def test_a_deadline_that_passes_while_waiting_is_a_504(listening, connect, gate, hold, special):
    async with listening(**SETTINGS) as serving:
        held, late = await hold(serving), await connect(serving.port)
        late.writer.write(request(INVOICE, x_request_timeout_ms="300", **special))
        await until(lambda: depth(serving) == 1 or requests(serving, code=429))
        await asyncio.sleep(0.31)
        gate.opened.set()
        status, headers, body = await answer(late)
        assert (status, body["error"]["code"]) == (504, "deadline")
        assert body["error"]["request_id"] == headers["x-request-id"]
        assert (await answer(held))[0] == 200
        assert answers(serving) == {"deadline": 1, "ok": 1}


async def test_the_deadline_counts_from_the_head_even_if_the_body_is_late(listening, connect, asgi):
    async with listening() as serving:
        connection = await connect(serving.port)
        assert (await ask(connection, x_request_timeout_ms="20000"))[0] == 200
        connection.writer.write(request(INVOICE[:5], length=len(INVOICE), x_request_timeout_ms="100"))
        await connection.writer.drain()
        await asyncio.sleep(0.15)
        status, _, body = await exchange(connection, INVOICE[5:])
        assert (status, body["error"]["code"]) == (429, "overloaded")
        assert asgi == []


async def test_before_there_is_a_bundle_the_answer_is_503(listening, connect, asgi, monkeypatch):
    async with listening() as serving:
        monkeypatch.setattr(serving.app.state.reflux.models, "_serving", {})
        monkeypatch.setattr(serving.app.state.reflux.models, "only", None)
        status, headers, body = await ask(await connect(serving.port))
        assert (status, body["error"]["code"]) == (503, "not_ready")
        assert body["error"]["request_id"] == headers["x-request-id"]
        assert requests(serving, code=503) == 1
        assert asgi == []
        monkeypatch.undo()


async def test_an_unexpected_exception_is_a_500_in_the_shape_of_all_errors(listening, connect, asgi, monkeypatch):
    async with listening() as serving:
        connection = await connect(serving.port)
        for place in ("service.inference.dataplane.check_limits", "service.routes.classify._to_json"):
            with monkeypatch.context() as patched:
                patched.setattr(place, lambda *_: 1 / 0)
                with capture_logs() as logs:
                    status, _, body = await ask(connection, x_request_id="mine")
            assert (status, body["error"]["code"], body["error"]["request_id"]) == (500, "internal", "mine")
            assert [event["event"] for event in logs] == ["request failed"]
        assert (await ask(connection))[0] == 200
        assert requests(serving, code=500) == 2
        assert (asgi, unanswered(serving)) == ([], 0)


@BOTH_PATHS
async def test_keys_are_required_and_counted(listening, connect, write_keys, asgi, special):
    path = write_keys(tickets="right", slow="one:rate=0.001/s")
    async with listening(api_keys=path, access_log=True) as serving:
        connection = await connect(serving.port)
        with capture_logs() as logs:
            for key, status, code in [
                (None, 401, "unauthorised"),
                ("wrong", 401, "unauthorised"),
                ("right", 200, None),
                ("one", 200, None),
                ("one", 429, "rate_limited"),
            ]:
                found, headers, body = await ask(connection, x_api_key=key, **special)
                assert (found, body.get("error", {}).get("code")) == (status, code)
                assert ("www-authenticate" in headers, "retry-after" in headers) == (status == 401, status == 429)
        assert [event["key"] for event in logs] == [None, None, "tickets", "slow", "slow"]
        counted = {key: count for key, count in samples(serving).items() if key[0] == "reflux_key_requests_total"}
        assert {tuple(value for _, value in labels): count for (_, *labels), count in counted.items()} == {
            ("", "unauthorised"): 2,
            ("tickets", "allowed"): 1,
            ("slow", "allowed"): 1,
            ("slow", "limited"): 1,
        }
        assert len(asgi) == (5 if special else 0)


async def test_a_request_in_flight_at_the_stop_is_answered(listening, connect, gate, hold, asgi):
    async with listening(idle_grace_seconds=600) as serving:
        flying, slow, idle = await hold(serving), await connect(serving.port), await connect(serving.port)
        slow.writer.write(request(INVOICE[:5], length=len(INVOICE)))
        idle.writer.write(b"")
        await until(lambda: sum(one.busy for one in serving.server.server_state.connections) == 2)
        await until(lambda: len(serving.server.server_state.connections) == 3)
        await stop(serving)
        gate.opened.set()
        slow.writer.write(INVOICE[5:])
        idle.writer.write(request(INVOICE))
        for connection in (flying, slow, idle):
            status, headers, _ = await answer_while_closing(connection)
            assert (status, headers["connection"]) == (200, "close")
            assert await connection.ended()
        assert asgi == []


async def answer_while_closing(connection):
    """Like `answer`, for an answer with one `connection: close` header."""
    async with asyncio.timeout(PATIENCE):
        head = await connection.reader.readuntil(b"\r\n\r\n")
        assert head.lower().count(b"connection: close") == 1
        headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
        body = await connection.reader.readexactly(int(headers["content-length"]))
    return int(head.split()[1]), headers, json.loads(body)


async def test_requests_pipelined_before_the_stop_are_answered(listening, gate, hold):
    async with listening(idle_grace_seconds=600) as serving:
        connection = await hold(serving)
        connection.writer.write(request(INVOICE))
        (served,) = serving.server.server_state.connections
        await until(lambda: served.pipeline)
        await stop(serving)
        gate.opened.set()
        first, second = await answer(connection), await answer(connection)
        assert (first[0], first[1].get("connection")) == (200, None)
        assert (second[0], second[1].get("connection")) == (200, "close")
        assert await connection.ended()


async def test_a_request_cut_off_at_the_end_is_counted_and_logged(listening, gate, hold):
    with capture_logs() as logs:
        async with listening(shutdown_seconds=0.1) as serving:
            connection = await hold(serving)
            serving.stop()
            assert await connection.ended()
            await until(lambda: requests(serving))
            assert requests(serving, code=499) == 1
            assert unanswered(serving) == 0
            gate.opened.set()
    assert [event["requests"] for event in logs if event["event"] == "requests cut"] == [1]


@pytest.mark.parametrize("workers", [0, 1])
async def test_reference_counts_free_a_request(listening, connect, asgi, workers):
    async with listening(workers=workers) as serving:
        with uncollected():
            for _ in range(10):
                connection = await connect(serving.port)
                for options in ({}, {"x_request_timeout_ms": "0.000001"}, {"x_reflux_variant": "none"}, {}):
                    await ask(connection, **options)
                connection.close()
            await until(lambda: not serving.server.server_state.connections)
            await until(lambda: kept() <= workers)  # a thread keeps its last run until the next
        assert asgi == []


async def test_reference_counts_free_the_request_of_a_client_that_disconnected(listening, connect, gate, hold):
    async with listening() as serving:
        with uncollected():
            held = await hold(serving)
            several = [await connect(serving.port) for _ in range(5)]
            for connection in several:
                connection.writer.write(request(INVOICE))
            await until(lambda: depth(serving) == 5)
            for connection in several:
                connection.close()
            await until(lambda: depth(serving) == 0)
            gate.opened.set()
            await answer(held)
            held.close()
            await until(lambda: not serving.server.server_state.connections)
            await until(lambda: kept() <= 1)


class Clock:
    """The event loop of a connection, with a clock that `passes` moves."""

    def __init__(self, served):
        self.now, self.timers, self._loop = 0.0, [], served.loop
        served.loop = self
        served.timeout_keep_alive_task.cancel()
        served.timeout_keep_alive_task, served._idle_since = None, 0.0

    def __getattr__(self, name):
        return getattr(self._loop, name)

    def time(self):
        return self.now

    def call_later(self, seconds, call):
        timer = SimpleNamespace(at=self.now + seconds, call=call)
        timer.cancel = lambda: self.timers.remove(timer)
        self.timers.append(timer)
        return timer

    def passes(self, seconds):
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= end]:
            timer = min(due, key=lambda timer: timer.at)
            self.timers.remove(timer)
            self.now = timer.at
            timer.call()
        self.now = end


@pytest_asyncio.fixture
async def timed(listening, connect):
    """A connection that may be idle for ten seconds, its protocol on the server, and its clock."""
    async with listening(keep_alive_seconds=10, receive_seconds=1000) as serving:
        connection = await connect(serving.port)
        await until(lambda: serving.server.server_state.connections)
        (served,) = serving.server.server_state.connections
        yield connection, served, Clock(served)
        connection.close()


@BOTH_PATHS
async def test_an_idle_connection_is_closed_some_time_after_its_last_answer(timed, special):
    connection, served, clock = timed
    for _ in range(3):
        assert (await ask(connection, **special))[0] == 200
        await until(lambda: not served.busy)
        assert len(clock.timers) == 1
        clock.passes(6)
    clock.passes(3.9)
    assert not served.transport.is_closing()
    clock.passes(0.2)
    assert await connection.ended()


async def test_a_refusal_keeps_the_connection_alive(crowding, connect):
    async with crowding(keep_alive_seconds=10) as crowded:
        before = set(crowded.serving.server.server_state.connections)
        connection = await connect(crowded.serving.port)
        await until(lambda: len(crowded.serving.server.server_state.connections) > len(before))
        (served,) = set(crowded.serving.server.server_state.connections) - before
        clock = Clock(served)
        for _ in range(3):
            assert await ask(connection, x_request_id="mine") == crowded.usual
            assert len(clock.timers) == 1
            clock.passes(6)
        assert not served.transport.is_closing()
        clock.passes(4.1)
        assert await connection.ended()


async def test_a_connection_is_not_idle_while_a_request_is_read_or_answered(timed, gate):
    connection, served, clock = timed
    assert (await ask(connection))[0] == 200
    clock.passes(6)
    data = request(INVOICE)
    gate.close()
    for part in (data[:9], data[9:-1], data[-1:]):
        connection.writer.write(part)
        if part != data[-1:]:
            await until(lambda: served._reading)
        clock.passes(60)
        assert not served.transport.is_closing()
    await gate.held()
    clock.passes(60)
    gate.opened.set()
    assert (await answer(connection))[0] == 200
    clock.passes(9.9)
    assert not served.transport.is_closing()
    clock.passes(0.2)
    assert await connection.ended()


async def test_reference_counts_free_a_lost_connection(listening, connect):
    async def lose(**options):
        connection = await connect(serving.port)
        await ask(connection, **options)
        (served,) = map(weakref.ref, serving.server.server_state.connections)
        connection.close()
        await until(lambda: served() is None)

    async with listening(keep_alive_seconds=600) as serving:
        with uncollected():
            await lose()
            await lose(x_request_timeout_ms="0.000001")


async def test_requests_of_other_origins_go_through_asgi(listening, connect, asgi):
    async with listening(cors_origins=("https://desk.example",)) as serving:
        status, headers, _ = await ask(await connect(serving.port), origin="https://desk.example")
        assert (status, asgi) == (200, ["/classify"])
        assert headers["access-control-allow-origin"] == "https://desk.example"
