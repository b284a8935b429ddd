"""A head that was read is known by its bytes, and by nothing but whole plain requests."""

from __future__ import annotations

import pytest

from service.server import heads
from service.server.heads import Heads

LINES = b"POST /classify HTTP/1.1\r\nhost: reflux\r\ncontent-length: 4\r\n"
REQUEST = LINES + b"\r\nbody"
HEAD = object()
MOST_BYTES = 1000


def knowing(data=REQUEST, head=HEAD):
    known = Heads(MOST_BYTES)
    known.learn(data, head)
    return known


def test_a_head_is_known_whatever_body_follows_it():
    known = knowing()
    assert known.of(REQUEST) == (HEAD, b"body")
    assert known.of(LINES + b"\r\n\r\n\r\n") == (HEAD, b"\r\n\r\n")
    for length in (0, 5, 12, MOST_BYTES):
        body = b"x" * length
        assert known.of(REQUEST.replace(b"4", b"%d" % length)[:-4] + body) == (HEAD, body)
    assert Heads(MOST_BYTES).of(REQUEST) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        LINES,
        LINES + b"\r\n",
        LINES + b"\r\nbod",
        REQUEST + b"y",
        REQUEST + REQUEST,
        b"\r\n" + REQUEST,
        b"\r\n\r\n" + REQUEST,
        REQUEST.replace(b"host", b"Host"),
        REQUEST.replace(b"4", b"5"),
        REQUEST.replace(b"4", b"+4"),
        REQUEST.replace(b"4", b"4 "),
        REQUEST.replace(b"4", b""),
        REQUEST.replace(b"4", b"0" * 5000 + b"4"),
        REQUEST.replace(b"4", b"4\r\na: b"),
        REQUEST.replace(b"content-length: 4\r\n", b""),
        REQUEST.replace(b"4", b"1001")[:-4] + b"x" * 1001,
        REQUEST.replace(b"\r\n", b"\n"),
    ],
)
def test_what_is_not_one_whole_request_with_that_head_is_not_known(data):
    assert knowing().of(data) is None


def with_line(line):
    return LINES + line + b"\r\n\r\nbody"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(REQUEST + REQUEST, id="two requests"),
        pytest.param(b"body", id="only its end"),
        pytest.param(b"", id="nothing"),
        pytest.param(with_line(b"X-Request-ID: 1"), id="an id"),
        pytest.param(REQUEST.replace(b"host: ", b"strength: "), id="another length first"),
        pytest.param(REQUEST.replace(b"content-length", b"my-length"), id="another length"),
        pytest.param(with_line(b"traceparent:1"), id="a trace"),
        pytest.param(with_line(b"a: " + b"b" * 2048), id="a long head"),
    ],
)
def test_what_would_not_come_again_or_is_more_than_a_request_is_not_kept(data):
    known = knowing(data)
    assert known.of(data) is None
    assert known.of(REQUEST) is None
    assert knowing(with_line(b"a: x-request-id")).of(with_line(b"a: x-request-id")) == (HEAD, b"body")


def test_only_so_many_are_kept(monkeypatch):
    monkeypatch.setattr(heads, "_MOST", 3)
    known = Heads(MOST_BYTES)
    data = [REQUEST.replace(b"reflux", b"%d" % number) for number in range(10, 18)]
    for one in data:
        known.learn(one, HEAD)
        assert known.of(one) == (HEAD, b"body")
        assert sum(known.of(other) is not None for other in data) <= 3
