"""The context of a request: its deadline, its body, its variant, and when its client disconnects."""

import asyncio
import itertools

import pytest
from starlette.requests import ClientDisconnect

from service.errors import InvalidRequestError, TooLargeError
from service.http.context import RequestContext

BEGAN = 1000.0
LEFT = {"type": "http.disconnect"}


@pytest.fixture
def context(make_settings):
    """`context(messages, headers, **settings)`: a request that takes its messages from the list."""

    def make(messages=(), headers=(), **settings):
        async def receive():
            return messages.pop(0)

        return RequestContext(make_settings(**settings), "mine", dict(headers), receive, BEGAN)

    return make


def part(content, more=False):
    return {"type": "http.request", "body": content, "more_body": more}


def test_without_any_limit_there_is_no_deadline(context):
    assert context().timeout() is None


@pytest.mark.parametrize("limits", [*itertools.permutations((None, 0.5, 2.0))])
@pytest.mark.parametrize("smallest", [0.25, 1.0])
def test_the_deadline_is_the_smallest_of_header_protocol_and_setting(context, limits, smallest):
    limits = [smallest if limit == 0.5 else limit for limit in limits]
    asked, protocol, setting = limits
    headers = [] if asked is None else [(b"x-request-timeout-ms", f"{asked * 1000}".encode())]
    assert context(headers=headers, timeout_seconds=setting).timeout(protocol) == smallest


@pytest.mark.parametrize("given", [b"", b"soon", b"0", b"-1", b"inf", b"nan", b"1 s", b"1e999", b"\xff"])
def test_a_timeout_that_is_not_milliseconds_is_refused(context, given):
    with pytest.raises(InvalidRequestError, match="X-Request-Timeout-Ms: give milliseconds"):
        context(headers=[(b"x-request-timeout-ms", given)]).timeout()


@pytest.mark.parametrize(("given", "variant"), [(None, None), (b"candidate", "candidate"), (b"\xe9", "é")])
def test_the_variant_is_what_the_client_asks_for(context, given, variant):
    assert context(headers=[(b"x-reflux-variant", given)] if given else []).variant == variant


@pytest.mark.parametrize(
    "messages",
    [
        [part(b"0123456789")],
        [part(b"01234", more=True), part(b"", more=True), part(b"56789")],
        [part(b"0123456789", more=True), {"type": "http.request"}],
    ],
)
async def test_the_body_is_all_of_its_parts(context, messages):
    headers = [(b"content-length", b"10")]
    assert await context([*messages], headers, max_body_bytes=10).body() == b"0123456789"


async def test_a_body_declared_too_large_is_not_read(context):
    messages = [part(b"0123456789")]
    with pytest.raises(TooLargeError, match="more than 9 bytes"):
        await context(messages, [(b"content-length", b"10")], max_body_bytes=9).body()
    assert messages


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"1")]])
async def test_a_body_is_read_no_further_than_the_limit(context, headers):
    messages = [part(b"01234", more=True), part(b"56789", more=True), part(b"more")]
    with pytest.raises(TooLargeError):
        await context(messages, headers, max_body_bytes=9).body()
    assert messages == [part(b"more")]


async def test_a_client_may_disconnect_in_the_middle_of_its_body(context):
    with pytest.raises(ClientDisconnect):
        await context([part(b"{", more=True), LEFT]).body()


async def test_leaving_returns_when_the_client_has_disconnected(context):
    messages = [part(b""), LEFT, part(b"beyond")]
    async with asyncio.timeout(30):
        await context(messages).leaving()
    assert messages == [part(b"beyond")]
