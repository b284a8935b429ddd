"""Upgrade offers, heads, bodies and connections have limits, which are the same on both paths."""

import asyncio
import json
import re
import shutil
import socket
from contextlib import asynccontextmanager
from typing import cast

import pytest
import uvloop

from tests.support.raw_request import request
from tests.support.waiting import PATIENCE, until

BODY = b'{"text": "invoice"}'
H2C = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
OFFERS = {
    "h2c": H2C,
    "h2c in upper case": H2C.upper(),
    "h2c, offered twice": H2C + "upgrade: h2c\r\n",
    "h2c, closing": "connection: close, upgrade\r\nupgrade: h2c\r\n",
    "websocket": "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: A\r\n",
    "foo": "upgrade: foo/7, bar\r\nconnection: keep-alive, Upgrade\r\n",
    "nothing": "upgrade: \r\nconnection: upgrade\r\n",
    "no connection": "upgrade: h2c\r\n",
    "TLS": "connection: upgrade\r\nupgrade: TLS/1.0\r\n",
}
PATHS = {
    "/classify": BODY,
    "/v1/classify": b'{"input": "invoice"}',
    "/predict": b'{"inputs": "invoice"}',
    "/v2/models/tiny/infer": json.dumps(
        {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["invoice"]}]}
    ).encode(),
}
PATHS_TAKEN = {"fast path": "", "ASGI": "?a=b"}


@pytest.fixture(scope="module")
def event_loop_policy():
    """The event loop of production: loops differ in what a transport does when its client disconnects."""
    return uvloop.EventLoopPolicy()


async def send(connection, *pieces):
    for piece in pieces:
        connection.writer.write(piece)
        await connection.writer.drain()
        await asyncio.sleep(0.002 if len(pieces) > 1 else 0)


def plain(answer):
    """Return an answer without what differs between any two answers."""
    status, headers, body = answer
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in ("request_id", "id", "created")}
    return status, {name for name in headers if name not in ("date", "connection")}, body


def counted(serving, code):
    """Return how many requests were answered with a status."""
    families = serving.app.state.reflux.metrics.registry.collect()
    found = [sample for family in families for sample in family.samples if sample.name == "reflux_http_requests_total"]
    return sum(sample.value for sample in found if sample.labels["code"] == str(code))


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
async def test_an_upgrade_offer_changes_nothing(listening, connect, offer):
    async with listening() as serving:
        for path, body in PATHS.items():
            usual = plain(await asked(await connect(serving.port), request(body, target=path)))
            assert usual[0] == 200
            for chunked in (False, True):
                data = request(body, offer, target=path, chunked=chunked)
                for at in (len(data), data.index(b"\r\n\r\n") + 4, data.index(b"\r\n\r\n") + 6):
                    connection = await connect(serving.port)
                    await send(connection, *filter(None, (data[:at], data[at:])))
                    assert plain(await connection.receive()) == usual
                    if "close" in offer:
                        assert await connection.ended()
                    else:
                        assert plain(await asked(connection, data)) == usual
                        assert plain(await asked(connection, request(body, target=path))) == usual
                    connection.close()


async def asked(connection, data):
    connection.writer.write(data)
    return await connection.receive()


@pytest.mark.parametrize("chunked", [False, True])
async def test_after_an_upgrade_offer_the_next_request_is_read(listening, connect, chunked):
    """A body that looks like a request stays a body, however the bytes are split."""
    async with listening() as serving:
        inner = request(b'{"text": "inner"}')
        data = request(inner, H2C, chunked=chunked) + request(BODY, H2C, chunked=chunked) + request()
        for size in (len(data), 200, 40):
            connection = await connect(serving.port)
            await send(connection, *(data[at : at + size] for at in range(0, len(data), size)))
            assert [(await connection.receive())[0] for _ in range(3)] == [400, 200, 200]
            connection.writer.write_eof()
            assert await connection.ended()
        assert (counted(serving, 400), counted(serving, 200)) == (3, 6)


async def test_get_http_1_0_and_expect_100_work_with_an_upgrade_offer(listening, connect):
    async with listening() as serving:
        connection = await connect(serving.port)
        await send(connection, request(b"", H2C, target="/livez", method="GET") * 2)
        assert [(await connection.receive())[0] for _ in range(2)] == [200, 200]
        await send(connection, request(b"", H2C + "expect: 100-continue\r\n", length=len(BODY)))
        async with asyncio.timeout(PATIENCE):
            assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await asked(connection, BODY))[0] == 200
        status, headers, _ = await asked(connection, request(BODY, H2C, version="1.0"))
        assert (status, headers["connection"]) == (200, "close")
        assert await connection.ended()


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (PREFACE, 505, "HTTP/2 is not spoken here; ask by HTTP/1.1"),
        (request(version="2.0"), 505, "HTTP/2.0 is not spoken here; ask by HTTP/1.1"),
        (request(version="0.9"), 505, "HTTP/0.9 is not spoken here; ask by HTTP/1.1"),
        (b"CONNECT reflux:443 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc", 405, "this is no proxy"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "this port speaks HTTP without TLS"),
        (b"nonsense\r\n\r\n", 400, "this is not HTTP/1.1"),
        (b"POST caf\xc3\xa9 HTTP/1.1\r\n\r\n", 400, "this is not HTTP/1.1"),
        (request(more="content-length: 4\r\n"), 400, "this is not HTTP/1.1"),
    ],
    ids=["preface", "HTTP/2.0", "HTTP/0.9", "CONNECT", "TLS", "nonsense", "path", "two lengths"],
)
async def test_what_is_not_http_1_is_refused_in_the_shape_of_all_errors(listening, connect, data, status, message):
    async with listening() as serving:
        befores = (b"",) if data[0] == 0x16 else (b"", request(), request(more=H2C))
        for before in befores:
            connection = await connect(serving.port)
            await send(connection, before + data)
            if before:
                assert (await connection.receive())[0] == 200
            found, headers, body = await connection.receive()
            assert (found, headers["connection"]) == (status, "close")
            assert body["error"]["message"].startswith(message)
            assert body["error"]["request_id"] == headers["x-request-id"]
            assert await connection.ended()
        assert counted(serving, status) == len(befores)


async def test_a_split_preface_and_nonsense_after_a_waiting_request_are_answered_in_order(listening, connect, gate):
    async with listening() as serving:
        connection = await connect(serving.port)
        await send(connection, PREFACE[:5], PREFACE[5:])
        assert (await connection.receive())[0] == 505
        gate.close()
        connection = await connect(serving.port)
        await send(connection, request(), b"nonsense\r\n\r\n", request())
        await gate.held()
        gate.opened.set()
        assert [(await connection.receive())[0] for _ in range(2)] == [200, 400]
        assert await connection.ended()
        assert counted(serving, 200) == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_curl_that_offers_http_2_is_answered(listening, tmp_path):
    async with listening(max_body_bytes=100_000) as serving:
        (tmp_path / "long").write_bytes(b'{"texts": ["invoice"]}' + b" " * 70_000)
        for more in (
            ["-d", BODY.decode()],
            ["-d", f"@{tmp_path}/long"],
            ["-H", "transfer-encoding: chunked", "-d", BODY.decode()],
        ):
            command = ["-sS", "--http2", "-H", "content-type: application/json", *more]
            urls = [f"{serving.url}/classify", f"{serving.url}/classify"]
            assert re.findall(r'"label":"billing"', await output("curl", *command, *urls)) == ['"label":"billing"'] * 4
        urls = ["--http2-prior-knowledge", f"{serving.url}/livez"]
        assert counted(serving, 200) == 6
        await output("curl", "-s", *urls)
        assert counted(serving, 505) == 1


JAVA = """
import java.net.URI;
import java.net.http.*;

public class Ask {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int round = 0; round < 2; round++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(given[0]))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(given[1])).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
"""


@pytest.mark.skipif(shutil.which("javac") is None, reason="there is no JDK")
async def test_the_default_http_client_of_java_is_answered(listening, tmp_path):
    async with listening() as serving:
        (tmp_path / "Ask.java").write_text(JAVA)
        found = await output("java", str(tmp_path / "Ask.java"), f"{serving.url}/classify", BODY.decode())
        assert [line[:4] for line in found.splitlines()] == ["200 ", "200 "]
        assert found.count('"label":"billing"') == 4


async def output(*command):
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(PATIENCE):
        out, _ = await process.communicate()
    return out.decode()


SMALL = {"max_body_bytes": 1000, "max_texts": 8, "max_characters": 200, "queue_limit": 8}
LONG = 64 * 1024
TICK = 0.005
"""Seconds, more than the resolution of the event loop's clock."""


@asynccontextmanager
async def small(listening, connect, **settings):
    """A server with small limits, and `begin(*pieces)`, which opens a connection and sends pieces."""
    async with listening(**SMALL, **settings) as serving:

        async def begin(*pieces):
            connection = await connect(serving.port)
            await send(connection, *pieces)
            return connection

        yield serving, begin
        await until(lambda: all(not one.busy for one in serving.server.server_state.connections))


@pytest.mark.parametrize("way", PATHS_TAKEN.values(), ids=PATHS_TAKEN)
async def test_a_request_that_arrives_too_slowly_gets_408(listening, connect, way):
    async with small(listening, connect, receive_seconds=0.2) as (serving, begin):
        data, chunked = request(target=f"/classify{way}"), request(target=f"/classify{way}", chunked=True)
        for pieces in (
            [data[:3]],
            [data[:40]],
            [data[:-5]],
            [data[:-5], data[-5:-2]],
            [chunked[:-5]],
            [request(), data[:-5]],
        ):
            connection = await begin(*pieces)
            if len(pieces) == 2 and pieces[0] == request():
                assert (await connection.receive())[0] == 200
            status, headers, body = await connection.receive()
            assert (status, body["error"]["code"], headers["connection"]) == (408, "too_slow", "close")
            assert body["error"]["message"] == "the request did not come whole within 0.2 s; send it again, faster"
            assert await connection.ended()
        assert counted(serving, 408) == 6
        assert serving.app.state.limits.held == 0


async def test_a_request_that_waits_for_an_earlier_one_is_not_too_slow(listening, connect, gate):
    async with small(listening, connect, receive_seconds=0.1) as (_, begin):
        for rest in (request(), request(chunked=True)):
            gate.close()
            connection = await begin(request(), rest[:-9])
            await gate.held()
            await asyncio.sleep(0.3)
            gate.opened.set()
            assert (await connection.receive())[0] == 200
            assert (await asked(connection, rest[-9:]))[0] == 200


async def test_a_connection_without_a_request_is_closed_as_idle(listening, connect):
    async with small(listening, connect, keep_alive_seconds=1) as (_, begin):
        assert await (await begin()).ended()


@pytest.mark.parametrize("way", PATHS_TAKEN.values(), ids=PATHS_TAKEN)
async def test_a_head_may_have_64_kib_and_256_headers(listening, connect, way):
    def head(long, number=1):
        return "".join(f"x-{at}: {'a' * long}\r\n" for at in range(number))

    async with small(listening, connect) as (serving, begin):
        for more, status in ((head(LONG - 300), 200), (head(200, 250), 200), (head(LONG), 431), (head(1, 254), 431)):
            data = request(more=more, target=f"/classify{way}")
            for size in (len(data), 5000, 50):
                pieces = [data[at : at + size] for at in range(0, len(data), size)]
                connection = await connect(serving.port)
                connection.writer.writelines(pieces[:-1])
                await send(connection, pieces[-1])
                found, _, body = await connection.receive()
                assert (found, body.get("error", {}).get("code")) == (
                    status,
                    (status == 431 and "head_too_large") or None,
                )
                if status == 431:
                    assert await connection.ended()
        for endless in (
            b"GET /" + b"a" * 2 * LONG,
            b"GET / HTTP/1.1\r\nx: " + b"a" * 2 * LONG,
            b"GET / HTTP/1.1\r\n" + b"x:\r\n" * LONG,
        ):
            connection = await begin(endless)
            assert (await connection.receive())[0] == 431
            assert await connection.ended()
        assert serving.app.state.limits.held == 0


@pytest.mark.parametrize("way", PATHS_TAKEN.values(), ids=PATHS_TAKEN)
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_key_is_checked_once_the_head_is_there_and_the_body_is_dropped(
    listening, connect, write_keys, way, chunked
):
    async with small(listening, connect, api_keys=write_keys(tickets="right")) as (serving, begin):
        path, more = f"/classify{way}", "x-api-key: wrong\r\n"
        data = request(b'{"text": "' + b"a" * 400, more, target=path, chunked=chunked)
        connection = await begin(data[:-300])
        assert (await connection.receive())[0] == 401
        await send(connection, data[-300:-200], data[-200:])
        assert serving.app.state.limits.held == 0
        assert (await asked(connection, request(more="x-api-key: right\r\n", target=path)))[0] == 200


@pytest.mark.parametrize("way", PATHS_TAKEN.values(), ids=PATHS_TAKEN)
async def test_the_bytes_held_of_unfinished_requests_have_a_limit(listening, connect, way):
    async with small(listening, connect, max_unfinished_bytes=2200) as (serving, begin):
        body = b'{"text": "invoice' + b" " * 700 + b'"}'
        data, limits = request(body, target=f"/classify{way}"), serving.app.state.limits
        first = await begin(data[:-100])
        await until(lambda: limits.held > 700)
        second = await begin(data[:-100])
        await until(lambda: limits.held > 1400)
        third = await begin(data[:100], data[100:-100])
        status, headers, content = await third.receive()
        assert (status, content["error"]["code"], headers["retry-after"]) == (503, "busy", "1")
        assert await third.ended()
        assert (await asked(await begin(), data))[0] == 422, "what comes whole is not held"
        for connection in (first, second):
            await send(connection, data[-100:])
            assert (await connection.receive())[0] == 422
        assert limits.held == 0
        lost = await begin(data[:-100])
        await until(lambda: limits.held > 700)
        lost.close()
        await until(lambda: limits.held == 0)
        heads = [await begin(data[:30] + b"x: " + b"a" * 800) for _ in range(3)]
        assert (await heads[-1].receive())[0] == 503


@pytest.mark.parametrize("way", PATHS_TAKEN.values(), ids=PATHS_TAKEN)
@pytest.mark.parametrize("length", [2000, 500_000, None])
async def test_a_client_that_sends_too_much_before_it_reads_gets_its_answer(listening, connect, way, length):
    async with small(listening, connect) as (serving, begin):
        data = request(b" " * (length or 0), target=f"/classify{way}")
        if length is None:
            data = request(BODY, target=f"/classify{way}", chunked=True)[:-5] + (b"a\r\n" + b" " * 10 + b"\r\n") * 500
        connection = await begin(*(data[at : at + 4000] for at in range(0, min(len(data), 14_000), 4000)))
        assert (await connection.receive())[0] == 413
        connection.writer.write_eof()
        assert await connection.ended()
        assert counted(serving, 413) == 1
        assert serving.app.state.limits.held == 0


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("way", PATHS_TAKEN.values(), ids=PATHS_TAKEN)
async def test_a_client_that_half_closes_after_its_requests_is_answered(listening, connect, gate, way, chunked):
    async with small(listening, connect) as (serving, begin):
        data = request(target=f"/classify{way}", chunked=chunked)
        nonsense = b"nonsense\r\n\r\n"
        for pieces in ([data], [data, data[:30]], [request(), data], [request(), data, data[:30]], [data, nonsense]):
            gate.close()
            connection = await begin(*pieces)
            await gate.held()
            connection.writer.write_eof()
            await asyncio.sleep(TICK)
            gate.opened.set()
            whole = [piece for piece in pieces if len(piece) > 30]
            assert [(await connection.receive())[0] for _ in whole] == [200] * len(whole)
            if nonsense in pieces:
                assert (await connection.receive())[0] == 400
            assert await connection.ended()
        await until(lambda: not serving.server.server_state.connections)
        assert serving.app.state.limits.held == 0


@pytest.mark.parametrize("way", PATHS_TAKEN.values(), ids=PATHS_TAKEN)
async def test_a_client_that_half_closes_within_a_request_is_not_waited_for(listening, connect, way):
    async with small(listening, connect) as (serving, begin):
        data = request(target=f"/classify{way}")
        for part in (b"", data[:30], data[:-5]):
            connection = await begin(part)
            connection.writer.write_eof()
            assert await connection.ended()
        assert serving.app.state.limits.held == 0


@pytest.mark.parametrize("way", PATHS_TAKEN.values(), ids=PATHS_TAKEN)
async def test_a_probe_replaces_the_connection_whose_request_is_slowest(listening, connect, way):
    async with small(listening, connect, max_connections=3) as (serving, begin):
        data = request(target=f"/classify{way}")
        several = []
        for part in (data[:-5], data[:20], data[:-5]):
            several.append(await begin(part))
            await until(lambda: serving.app.state.limits.held > 64 * len(several))
            await asyncio.sleep(TICK)
        probe = await begin(request(b"", target="/livez", method="GET"))
        assert (await probe.receive())[0] == 200
        for at, (status, rest) in enumerate([(503, b""), (200, data[20:]), (200, data[-5:])]):
            await send(several[at], rest)
            assert (await several[at].receive())[0] == status
        assert await several[0].ended()


async def test_with_too_many_refusals_a_connection_is_closed_without_an_answer(listening, connect, gate, monkeypatch):
    async with small(listening, connect, max_connections=1) as (serving, begin):
        monkeypatch.setattr(serving.app.state.limits, "most_refused", 1)
        gate.close()
        first = await begin(request())
        await gate.held()
        refused = await begin()
        assert (await refused.receive())[0] == 503
        assert await (await begin()).ended()
        gate.opened.set()
        assert (await first.receive())[0] == 200


@pytest.mark.parametrize("way", PATHS_TAKEN.values(), ids=PATHS_TAKEN)
async def test_an_invalid_body_costs_its_key_one_text_before_it_is_read(listening, connect, write_keys, way):
    for body, status in (
        (b'{"texts": [1]}', 422),
        (b"[", 400),
        (b'{"texts": [' + b"1," * 450 + b"1]}", 422),
        (BODY, 200),
    ):
        async with small(listening, connect, api_keys=write_keys(slow="one:rate=0.001/s")) as (_, begin):
            data = request(body, "x-api-key: one\r\n", target=f"/classify{way}")
            assert (await (await begin(data)).receive())[0] == status
            assert (await (await begin(data[: len(data) - len(body)])).receive())[0] == 429


async def flood(connection):
    async with asyncio.timeout(PATIENCE):
        while True:
            connection.writer.write(b"a\r\n" + b" " * 10 + b"\r\n")
            await connection.writer.drain()


async def test_a_client_that_never_ends_is_cut(listening, connect):
    async with small(listening, connect) as (serving, begin):
        for head in (request(length=10**9)[: -len(BODY)], request(chunked=True, target="/nope")[:-5]):
            connection = await begin(head)
            with pytest.raises(ConnectionError):
                await flood(connection)
        await until(lambda: not serving.server.server_state.connections)


async def test_trailers_after_chunks_are_no_headers_and_have_a_limit(listening, connect, write_keys):
    async with small(listening, connect, api_keys=write_keys(tickets="right")) as (_, begin):
        data = request(chunked=True)[:-2]
        connection = await begin(data + b"x-api-key: right\r\n\r\n")
        assert (await connection.receive())[0] == 401
        right = request(more="x-api-key: right\r\n", chunked=True)[:-2]
        assert (await asked(connection, right + b"x-api-key: wrong\r\nx-request-id: mine\r\n\r\n"))[0] == 200
        connection = await begin(right + b"x: " + b"a" * 2 * LONG)
        assert (await connection.receive())[0] == 413
        connection = await begin(right[:-3] + b"1;" + b"a" * 2 * LONG)
        assert (await connection.receive())[0] == 413


async def test_one_connection_too_many_replaces_the_one_that_was_idle_longest(listening, connect, gate):
    async with small(listening, connect, max_connections=3) as (serving, begin):
        several = [await begin() for _ in range(3)]
        for connection in (*several, several[0]):
            assert (await asked(connection, request()))[0] == 200
            await asyncio.sleep(TICK)
        fourth = await begin()
        assert await several.pop(1).ended()
        gate.close()
        for connection in (*several, fourth):
            await send(connection, request())
        await gate.held()
        await until(lambda: sum(one.busy for one in serving.server.server_state.connections) == 3)
        status, headers, body = await (await begin()).receive()
        assert (status, body["error"]["code"], headers["retry-after"]) == (503, "busy", "1")
        gate.opened.set()
        for connection in (*several, fourth):
            assert (await connection.receive())[0] == 200


async def test_the_requests_of_a_connection_that_wait_have_a_limit(listening, connect, gate):
    async with small(listening, connect) as (_, begin):
        gate.close()
        connection = await begin(request(), request(target="/livez?a", method="GET") * 100)
        await gate.held()
        gate.opened.set()
        assert [(await connection.receive())[0] for _ in range(66)] == [200] * 65 + [503]
        assert await connection.ended()


async def test_a_client_that_does_not_read_its_answers_is_cut(listening):
    async with listening(receive_seconds=0.5) as serving:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", serving.port))
        reader, writer = await asyncio.open_connection(sock=client)
        cast(asyncio.Transport, writer.transport).pause_reading()
        await until(lambda: serving.server.server_state.connections)
        (served,) = serving.server.server_state.connections
        body = json.dumps({"texts": ["invoice"] * 64, "logits": True, "embedding": True}).encode()

        def stuck():
            if not served.busy and not served.flow.write_paused:
                writer.write(request(body))
            return served.flow.write_paused

        await until(stuck)
        await until(lambda: not serving.server.server_state.connections)
        assert not reader.at_eof()
