"""What is refused from its bytes alone is a whole plain request, and its answer is the one that any other gets."""

from __future__ import annotations

import asyncio
import itertools
import json
from types import SimpleNamespace

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from export.bundle.format import Manifest
from service.errors import OverloadedError
from service.http.error_body import ErrorBody
from service.inference.runner import Refusal
from service.server import refusals
from service.server.refusals import Refusals
from service.telemetry.metrics import Metrics, ModelMetrics

PATIENCE = 30
DATE = [(b"date", b"Mon, 01 Jan 2024 00:00:00 GMT")]
FULL = Refusal("8 texts are waiting and 1 more exceed the limit of 8; try again in 3 s", 3)
MANIFEST = Manifest(
    name="tiny", family="tiny", labels=("a", "b"), max_tokens=32, variant="fp32", temperature=1.0, files={}
)
MOST_BYTES = 10_000
BODY = b'{"text":"invoice"}'
HOST, JSON, LENGTH = b"host: reflux", b"content-type: application/json", b"content-length: %d" % len(BODY)


class Runner:
    """Refuses all, and keeps for how many seconds it was asked."""

    def __init__(self):
        self.crowded = True
        self.says = FULL
        self.asked = []

    def refusal(self, seconds):
        self.asked.append(seconds)
        return self.says


class Bench:
    """Refusals for an edge with one hot route, and what they count."""

    def __init__(self, timeout=None):
        self.http, registry = Metrics(), CollectorRegistry()
        self.runner = Runner()
        self.model = SimpleNamespace(runner=self.runner, metrics=ModelMetrics(registry, MANIFEST, "stable"))
        self.models = SimpleNamespace(only=self.model)
        state = SimpleNamespace(
            models=self.models, settings=SimpleNamespace(timeout_seconds=timeout), metrics=self.http
        )
        self.refusals = Refusals(
            SimpleNamespace(
                state=state, direct={b"/classify": SimpleNamespace(path="/classify")}, max_body_bytes=MOST_BYTES
            )
        )
        self._registry = registry

    def answer(self, data, headers=DATE):
        return self.refusals.answer(data, headers)

    def counted(self):
        """How many requests were counted: of the model, of HTTP, and of HTTP's durations."""
        labels = {"route": "/classify", "method": "POST", "code": "429"}
        return (
            self._registry.get_sample_value("reflux_answers_total", {"outcome": "overloaded"}),
            self.http.registry.get_sample_value("reflux_http_requests_total", labels),
            self.http.registry.get_sample_value("reflux_http_request_duration_seconds_count", labels),
        )


def request(*headers, line=b"POST /classify HTTP/1.1", body=BODY, plain=(HOST, JSON, LENGTH)):
    """A request as bytes: the plain headers, then the others."""
    return b"\r\n".join([line, *plain, *headers, b"", body])


class Parsed:
    """What HTTP's own parser makes of bytes: of each message its headers and its body."""

    def __init__(self, kind, data):
        self.messages, self.headers, self.urls = 0, [], []
        self.url, self.body = b"", b""
        self.parser = kind(self)
        self.parser.feed_data(data)

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        self.headers.append((name.lower(), value))

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.messages += 1


def parsed(answer):
    """The headers of an answer 429, and its error."""
    found = Parsed(httptools.HttpResponseParser, answer)
    headers = dict(found.headers)
    assert (found.messages, found.parser.get_status_code(), found.parser.get_http_version()) == (1, 429, "1.1")
    assert len(headers) == len(found.headers), "each comes once"
    assert int(headers.pop(b"content-length")) == len(found.body), "and nothing follows"
    return headers, ErrorBody.model_validate_json(found.body).error


async def test_a_refusal_is_an_answer_in_the_one_shape():
    answer = Bench().answer(request(b"x-request-id: Mine-1"))
    headers, error = parsed(answer)
    assert headers == {
        b"content-type": b"application/json",
        b"x-request-id": b"Mine-1",
        b"retry-after": b"3",
        **dict(DATE),
    }
    wanted = ErrorBody.of(OverloadedError(FULL.message, retry_after=3), "Mine-1").model_dump()
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == wanted
    assert (error.code, error.message) == ("overloaded", FULL.message)


async def test_a_head_that_was_read_is_known_and_one_with_an_id_is_read_each_time(monkeypatch):
    bench, named = Bench(), request(b"x-request-id: Mine-1")
    known = [bench.answer(request()), bench.answer(named)]
    monkeypatch.setattr(refusals, "_REQUEST", SimpleNamespace(match=lambda data: None))
    again, unread = bench.answer(request(body=BODY[::-1])), bench.answer(named)
    assert parsed(again)[1].message == parsed(known[0])[1].message == FULL.message
    assert unread is None


@pytest.mark.parametrize("given", [None, b"", b"not safe", b"a" * 129, b'"', b"%d%b"])
async def test_a_request_without_a_safe_id_gets_one_of_its_own(given):
    bench = Bench()
    named = [] if given is None else [b"x-request-id: " + given]
    ids = []
    for _ in range(2):
        headers, error = parsed(bench.answer(request(*named)))
        assert headers[b"x-request-id"].decode() == error.request_id
        ids.append(error.request_id)
    assert len(set(ids)) == 2
    assert {len(one) for one in ids} == {32}


async def test_each_answer_has_what_is_true_as_it_is_given():
    bench = Bench()
    several = [DATE, [(b"date", b"later"), (b"via", b"100% one")]]
    few, many = Refusal("too few", 1), Refusal("too many", 2)
    for more, refusal, named in itertools.product(several, [few, many, few], ["a", "bcd"]):
        bench.runner.says = refusal
        headers, error = parsed(bench.answer(request(b"x-request-id: " + named.encode()), more))
        assert (error.message, error.request_id) == (refusal.message, named)
        assert headers.pop(b"retry-after") == b"%d" % refusal.retry_after
        assert {name: headers.get(name) for name, _ in more} == dict(more)


@pytest.mark.parametrize(
    "data",
    [
        request(),
        request(line=b"POST /classify HTTP/1.1", plain=(LENGTH, JSON)),
        request(plain=(b"Content-Length: %d" % len(BODY), b"CONTENT-TYPE: application/json", b"HOST: reflux")),
        request(b"Connection: keep-alive", b"User-Agent: some/1.0 (a; b)", b"Accept: */*", b"Accept-Encoding: gzip"),
        request(b"X-Forwarded-For: 10.0.0.1", b"traceparent: 00-ab-cd-01", b"Cookie: a=b", b"te-x: 1", b"cache: "),
        request(body=b"", plain=(JSON, b"content-length: 0")),
        request(body=b"not JSON", plain=(JSON, b"content-length: 8")),
    ],
)
async def test_a_whole_plain_request_is_refused_whatever_its_body_and_the_case_of_its_headers(data):
    parsed(Bench().answer(data))


@pytest.mark.parametrize("name", [b"x-request-timeout-ms", b"X-Request-Timeout-Ms"])
@pytest.mark.parametrize(
    ("setting", "header", "seconds"),
    [(None, None, None), (None, b"250", 0.25), (2.0, None, 2.0), (2.0, b"250", 0.25), (2.0, b"2500", 2.0)],
)
async def test_the_time_that_is_left_is_the_headers_or_the_settings_whichever_is_less(setting, header, seconds, name):
    bench = Bench(setting)
    parsed(bench.answer(request(*([] if header is None else [name + b": " + header]))))
    assert bench.runner.asked == [seconds]


async def test_all_that_is_refused_is_counted_a_little_later(monkeypatch):
    monkeypatch.setattr("service.server.refusals._COUNT_SECONDS", 0.0)
    bench = Bench()
    total = 0
    for several in (3, 2):
        for _ in range(several):
            bench.answer(request())
        assert bench.counted()[0] == total, "not at once"
        total += several
        async with asyncio.timeout(PATIENCE):
            while bench.counted()[0] != total:
                await asyncio.sleep(0)
        assert bench.counted() == (total, total, total)


async def test_what_is_not_refused_is_not_counted(monkeypatch):
    monkeypatch.setattr("service.server.refusals._COUNT_SECONDS", 0.0)
    bench = Bench()
    bench.runner.says = None
    assert bench.answer(request()) is None
    for _ in range(3):
        await asyncio.sleep(0)
    assert bench.counted() == (0, None, None)


def calm(bench):
    bench.runner.crowded = False


def beside_a_candidate(bench):
    bench.models.only = None


def with_time(bench):
    bench.runner.says = None


async def test_nothing_is_refused_where_connections_are_closed():
    assert Bench().answer(request(), [*DATE, (b"connection", b"close")]) is None


@pytest.mark.parametrize("state", [calm, beside_a_candidate, with_time])
async def test_nothing_is_refused_where_the_state_is_another(state):
    bench = Bench()
    assert bench.answer(request()) is not None
    state(bench)
    assert bench.answer(request()) is None


OTHERS = {
    "of another path": request(line=b"POST /model HTTP/1.1"),
    "with a query": request(line=b"POST /classify?a HTTP/1.1"),
    "by its absolute URL": request(line=b"POST http://reflux/classify HTTP/1.1"),
    "of another method": request(line=b"PUT /classify HTTP/1.1"),
    "of a method in small letters": request(line=b"post /classify HTTP/1.1"),
    "of another version": request(line=b"POST /classify HTTP/1.0"),
    "of a version in small letters": request(line=b"POST /classify http/1.1"),
    "without an end to its head": request().partition(b"\r\n\r\n")[0],
    "without its body": request(body=b""),
    "without the last byte": request()[:-1],
    "with one byte more": request() + b"\n",
    "with another behind it": request() * 2,
    "without a length": request(plain=(HOST, JSON)),
    "with two lengths": request(LENGTH),
    "with two lengths that differ": request(b"content-length: 0"),
    "with two lengths far apart": request(b"accept: */*", b"user-agent: one", b"Content-Length: 1"),
    "with a signed length": request(plain=(JSON, b"content-length: +18")),
    "with a list of lengths": request(plain=(JSON, b"content-length: 18, 18")),
    "in chunks": request(b"transfer-encoding: chunked"),
    "in chunks alone": request(b"transfer-encoding: chunked", plain=(HOST, JSON)),
    "that takes trailers": request(b"te: trailers"),
    "that waits to be asked": request(b"expect: 100-continue"),
    "closing": request(b"connection: close"),
    "closing in capitals": request(b"CONNECTION: Close"),
    "keeping and closing": request(b"connection: keep-alive, close"),
    "that would change protocols": request(b"upgrade: websocket"),
    "that would change protocols now": request(b"upgrade: websocket", b"connection: upgrade"),
    "of another type": request(plain=(HOST, LENGTH, b"content-type: text/plain")),
    "of two types": request(b"content-type: text/plain"),
    "with a charset": request(plain=(HOST, LENGTH, b"content-type: application/json; charset=utf-8")),
    "without a type": request(plain=(HOST, LENGTH)),
    "of a variant": request(b"x-reflux-variant: stable"),
    "without time": request(b"x-request-timeout-ms: 0"),
    "with less than no time": request(b"x-request-timeout-ms: -1"),
    "with a decimal time": request(b"x-request-timeout-ms: 1.5"),
    "with no number for its time": request(b"x-request-timeout-ms: soon"),
    "with two times, one wrong": request(b"x-request-timeout-ms: 1", b"x-request-timeout-ms: soon"),
    "with a folded header": request(b"accept: text/plain,", b" */*"),
    "with a space before a colon": request(b"accept : */*"),
    "with a header of no name": request(b": a"),
    "with a header of no colon": request(b"accept"),
    "with a bare line feed": request(b"accept: a\nb: c"),
    "with a bare carriage return": request(b"accept: a\rb: c"),
    "with a null byte": request(b"accept: a\0b"),
    "with a null byte in its id": request(b"x-request-id: a\0b"),
    "with lines that end in a line feed": request().replace(b"\r\n", b"\n"),
    "behind an empty line": b"\r\n" + request(),
    "of no bytes": b"",
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
async def test_what_is_not_whole_or_not_plain_is_left_to_the_parser(data):
    bench = Bench()
    assert bench.answer(data) is None
    assert bench.runner.asked == []


@given(st.binary() | st.binary().map(lambda more: request() + more) | st.binary().map(lambda more: request(more)))
async def test_no_bytes_raise(data):
    Bench().answer(data)


NAMES = (
    *(b"host", b"accept", b"accept-encoding", b"cookie", b"cache-control", b"content-encoding", b"content-length"),
    *(b"content-type", b"connection", b"proxy-connection", b"expect", b"keep-alive", b"origin", b"te", b"trailer"),
    *(b"transfer-encoding", b"upgrade", b"user-agent", b"x-request-id", b"x-request-timeout-ms", b"x-", b"x_y", b"_"),
)
VALUES = (b"", b"0", b"18", b"018", b"close", b"keep-alive", b"chunked", b"upgrade", b"application/json", b"a b\t")


@st.composite
def heads(draw):
    """A request that is nearly plain, with some headers more, in some order."""
    cased = st.sampled_from([bytes, bytes.upper, bytes.title])
    names = st.sampled_from(NAMES) | st.from_regex(rb"[a-z0-9-]{1,9}", fullmatch=True)
    values = st.sampled_from(VALUES) | st.binary(max_size=4)
    colons = st.sampled_from([b": "] * 8 + [b":", b" : ", b":\t"])
    header = st.tuples(st.builds(lambda name, case: case(name), names, cased), colons, values).map(b"".join)
    length = draw(st.sampled_from([len(BODY)] * 8 + [0, 5, len(BODY) + 1]))
    lines = [b"content-length: %d" % length, JSON, *draw(st.lists(header, max_size=4))]
    methods, versions = st.sampled_from([b"POST"] * 8 + [b"Post"]), st.sampled_from([b"HTTP/1.1"] * 8 + [b"Http/1.1"])
    line = draw(methods) + b" /classify " + draw(versions)
    end = draw(st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r\n ", b"\r"]))
    lines = draw(st.permutations(lines))
    at = draw(st.integers(0, len(lines) - 1))
    text = b"".join(one + (end if place == at else b"\r\n") for place, one in enumerate(lines))
    return line + b"\r\n" + text + b"\r\n" + BODY + draw(st.sampled_from([b""] * 8 + [b"\n", request()]))


@settings(max_examples=300)
@given(heads())
@example(request())
@example(request(b"proxy-connection: close"))
@example(request(plain=[JSON, b"content-length: %d" % (len(BODY) + 1)]) + b"\n")
@example(request(b"x-request-id: a\x7fb"))
async def test_what_is_refused_is_for_the_parser_too_exactly_one_plain_request(data):
    if Bench().answer(data) is None:
        return
    found = Parsed(httptools.HttpRequestParser, data)
    body = data.partition(b"\r\n\r\n")[2]
    assert (found.messages, found.url, found.body) == (1, b"/classify", body)
    assert (found.parser.get_method(), found.parser.get_http_version()) == (b"POST", "1.1")
    assert [value for name, value in found.headers if name == b"content-length"] == [b"%d" % len(body)]
    assert found.parser.should_keep_alive()
    assert not found.parser.should_upgrade()


async def test_a_plain_request_is_refused_whatever_the_order_of_its_headers():
    bench = Bench()
    several = [HOST, JSON, LENGTH, b"accept: */*", b"x-request-id: mine", b"connection: keep-alive"]
    for headers in itertools.permutations(several):
        assert parsed(bench.answer(request(plain=headers)))[1].request_id == "mine"
