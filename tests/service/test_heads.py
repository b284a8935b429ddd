"""A head that was read is known by its bytes, and by nothing but whole plain requests."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from service import heads
from service.heads import Heads

LINES = b"POST /classify HTTP/1.1\r\nhost: reflux\r\ncontent-length: 4\r\n"
REQUEST = LINES + b"\r\nbody"
HEAD = SimpleNamespace(length=4)


def knowing(data=REQUEST, head=HEAD):
    known = Heads()
    known.learn(data, head)
    return known


def test_a_head_is_known_whatever_body_follows_it():
    known = knowing()
    assert known.of(REQUEST) is HEAD
    assert known.of(LINES + b"\r\n\r\n\r\n") is HEAD
    assert Heads().of(REQUEST) is None


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
        REQUEST.replace(b"4", b"5") + b"y",
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
        pytest.param(with_line(b"traceparent:1"), id="a trace"),
        pytest.param(with_line(b"a: " + b"b" * 2048), id="a long head"),
    ],
)
def test_what_would_not_come_again_or_is_more_than_a_request_is_not_kept(data):
    known = knowing(data)
    assert known.of(data) is None
    assert known.of(REQUEST) is None
    assert knowing(with_line(b"a: x-request-id")).of(with_line(b"a: x-request-id")) is HEAD


def test_only_so_many_are_kept(monkeypatch):
    monkeypatch.setattr(heads, "_MOST", 3)
    known = Heads()
    data = [b"POST /%d HTTP/1.1\r\n\r\nbody" % number for number in range(8)]
    for one in data:
        known.learn(one, HEAD)
        assert known.of(one) is HEAD
        assert sum(known.of(other) is not None for other in data) <= 3
