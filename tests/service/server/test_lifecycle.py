"""A process on a socket gives correct answers under load, and loses none when it stops."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import random
import resource
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from types import SimpleNamespace

import httpx
import pytest
from structlog.testing import capture_logs

from export.bundle.format import MODEL, write_bundle
from service.app import create_app
from service.auth.access import access
from service.auth.keyfile import key_line
from service.errors import StartupError
from service.inference import registry
from service.inference.load import load as load_bundle
from service.serve import serve
from service.server import lifecycle
from service.server.lifecycle import Server, bind
from tests.support.connection import Connection
from tests.support.waiting import until

CLIENTS = 200
TEXTS = 40
MANY = {"REFLUX_QUEUE_LIMIT": "4000", "REFLUX_MAX_TEXTS": "8"}


def _texts(words: Mapping[str, tuple[str, ...]]) -> list[str]:
    generator = random.Random(0)
    pool = [word for group in words.values() for word in group]
    return [" ".join(generator.choices(pool, k=generator.randint(1, 12))) for _ in range(TEXTS)]


async def _expected(connection, texts):
    answers = {}
    for text in texts:
        status, _, body = await connection.ask({"text": text, "top_k": 4})
        assert status == 200
        answers[text] = body["results"][0]
    return answers


async def refused(port):
    """Wait until a port accepts no more connections."""

    async def closed():
        try:
            (await Connection.open(port)).close()
        except ConnectionError as error:  # reset, while the listener is closing
            return isinstance(error, ConnectionRefusedError)
        return False

    await until(closed)


def test_the_interpreter_switches_threads_often(make_settings, tmp_path):
    usual = sys.getswitchinterval()
    try:
        with pytest.raises(StartupError):
            serve(make_settings(bundle=tmp_path / "nowhere", port=0))
        assert sys.getswitchinterval() < usual / 5
    finally:
        sys.setswitchinterval(usual)


@pytest.mark.skipif(sys.platform != "linux", reason="niceness belongs to the whole process here")
async def test_threads_have_a_lower_priority_than_the_event_loop(listening):
    async with listening():
        nice = await asyncio.to_thread(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        assert nice > os.getpriority(os.PRIO_PROCESS, 0)


async def test_two_hundred_clients_get_the_answers_each_would_get_alone(start_process, connect, words):
    async with start_process(**MANY) as process:
        texts = _texts(words)
        expected = await _expected(await connect(process.port), texts)

        async def user(seed):
            generator = random.Random(seed)
            connection = await connect(process.port)
            for _ in range(8):
                asked = generator.choices(texts, k=generator.randint(1, 4))
                status, _, body = await connection.ask({"texts": asked, "top_k": 4})
                assert status == 200
                assert body["results"] == [expected[text] for text in asked]
            connection.close()

        async def deserter(seed):
            connection = await connect(process.port)
            connection.send(json.dumps({"texts": random.Random(seed).choices(texts, k=4)}).encode())
            await connection.writer.drain()
            connection.close()

        await asyncio.gather(*(user(seed) for seed in range(CLIENTS)), *(deserter(seed) for seed in range(50)))


async def test_sigterm_under_load_loses_no_request_and_readiness_fails_first(start_process, connect, words):
    async with start_process(REFLUX_DRAIN_SECONDS="0.5", REFLUX_IDLE_GRACE_SECONDS="30", **MANY) as process:
        texts = _texts(words)
        expected = await _expected(await connect(process.port), texts)
        answered = 0
        warm = asyncio.Event()

        async def user(seed):
            """Ask on a connection until the service closes it, then on another, until none is accepted."""
            nonlocal answered
            generator = random.Random(seed)
            farewells = 0
            while True:
                try:
                    connection = await connect(process.port)
                except ConnectionRefusedError:
                    return farewells
                closing = False
                while not closing:
                    text = generator.choice(texts)
                    status, headers, body = await connection.ask({"text": text, "top_k": 4})
                    assert status == 200
                    assert body["results"] == [expected[text]]
                    answered += 1
                    if answered == 3 * CLIENTS:
                        warm.set()
                    closing = headers.get("connection") == "close"
                farewells += 1
                assert await connection.ended()
                connection.close()

        async def stop():
            probe = await connect(process.port)
            assert (await probe.ask(None, method="GET", path="/readyz"))[0] == 200
            await warm.wait()
            process.terminate()
            while (await probe.ask(None, method="GET", path="/readyz"))[0] == 200:
                await asyncio.sleep(0)
            # Not ready, but it still accepts connections.
            late = await connect(process.port)
            assert (await late.ask({"text": texts[0]}))[0] == 200
            late.close()
            probe.close()

        stopping = asyncio.create_task(stop())
        farewells = await asyncio.gather(*(user(seed) for seed in range(CLIENTS)))
        await stopping
        assert all(count >= 1 for count in farewells), "every client was told to close, none was cut"
        assert await process.ended() == 0


async def test_an_idle_connection_and_a_half_sent_request_are_answered_after_the_listener_closed(
    start_process, connect
):
    # A connection left open by mistake would last until these limits, and the test would time out.
    forever = {"REFLUX_IDLE_GRACE_SECONDS": "600", "REFLUX_SHUTDOWN_SECONDS": "600"}
    async with start_process(REFLUX_DRAIN_SECONDS="0", **forever) as process:
        idle, slow = await connect(process.port), await connect(process.port)
        assert (await idle.ask({"text": "invoice"}))[0] == 200
        body = json.dumps({"text": "courier"}).encode()
        slow.send(body[:5], length=len(body))
        await slow.writer.drain()
        assert (await idle.ask({"text": "invoice"}))[0] == 200
        process.terminate()
        await refused(process.port)
        slow.writer.write(body[5:])
        for connection, answer in ((slow, None), (idle, {"text": "invoice"})):
            status, headers, _ = await (connection.receive() if answer is None else connection.ask(answer))
            assert (status, headers["connection"]) == (200, "close")
            assert await connection.ended()
        assert await process.ended() == 0


async def test_idle_connections_are_closed_after_their_grace(start_process, connect):
    async with start_process(REFLUX_DRAIN_SECONDS="0", REFLUX_IDLE_GRACE_SECONDS="0.1") as process:
        used, unused = await connect(process.port), await connect(process.port)
        assert (await used.ask({"text": "invoice"}))[0] == 200
        process.terminate()
        assert await used.ended()
        assert await unused.ended()
        assert await process.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_at_once(start_process, connect, number):
    async with start_process(REFLUX_DRAIN_SECONDS="600", REFLUX_SHUTDOWN_SECONDS="600") as process:
        held = await connect(process.port)
        held.send(b"{", length=100)
        probe = await connect(process.port)
        process.process.send_signal(number)
        while (await probe.ask(None, method="GET", path="/readyz"))[0] == 200:
            await asyncio.sleep(0)
        process.process.send_signal(number)
        assert await process.ended() == 0


async def test_a_request_that_never_ends_is_cut_off_after_the_limit(start_process, connect):
    async with start_process(
        REFLUX_DRAIN_SECONDS="0", REFLUX_IDLE_GRACE_SECONDS="0", REFLUX_SHUTDOWN_SECONDS="0.2"
    ) as process:
        held = await connect(process.port)
        held.send(b"{", length=100)
        await held.writer.drain()
        probe = await connect(process.port)
        assert (await probe.ask({"text": "invoice"}))[0] == 200
        process.terminate()
        assert await process.ended() == 0
        assert "requests cut" in process.log


async def test_a_wrong_setting_refuses_to_start_and_names_the_variable(start_process):
    async with start_process(REFLUX_QUEUE_LIMIT="many") as process:
        assert await process.ended() == 1
    assert "REFLUX_QUEUE_LIMIT" in process.log


async def test_garbage_is_collected_only_once_the_service_listens(listening):
    gc.disable()
    searches = gc.get_stats()[2]["collections"]
    try:
        async with listening():
            assert gc.isenabled()
            assert gc.get_stats()[2]["collections"] == searches
    finally:
        gc.enable()


async def test_connections_in_the_backlog_when_the_listener_closes_are_answered(make_settings):
    settings = make_settings(host="127.0.0.1", port=0)
    server = Server(create_app(settings), settings)
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    listener = bind("127.0.0.1", 0)
    address = listener.getsockname()
    await server.startup([listener])
    # The kernel completes this connection while the event loop, which accepts it, stands still.
    with socket.create_connection(address) as waiting:
        waiting.sendall(b"GET /livez HTTP/1.1\r\nhost: reflux\r\n\r\n")
        await server.shutdown([listener])
        answer = waiting.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer


def _ask_for_life(address, count):
    """Open `count` connections with a request each while the event loop, which accepts them, stands still."""
    clients = [socket.create_connection(address) for _ in range(count)]
    for client in clients:
        client.sendall(b"GET /livez HTTP/1.1\r\nhost: reflux\r\nconnection: close\r\n\r\n")
        client.setblocking(False)
    return clients


async def _answers(clients):
    """Return the status of each answer, and close the connections."""

    async def answer(client):
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection(sock=client)
            status = int((await reader.read()).split()[1])
        writer.close()
        return status

    return await asyncio.gather(*map(answer, clients))


@pytest.fixture
def accepting(monkeypatch):
    """`accepting.taken`: how many connections each call accepted; `accepting.full`: whether descriptors run out."""
    accepted = lifecycle._accepted
    accepting = SimpleNamespace(taken=[], full=False)

    def count(listener):
        accepting.taken.append(0)
        if accepting.full:
            raise OSError(errno.EMFILE, "too many open files")
        for connection in accepted(listener):
            accepting.taken[-1] += 1
            yield connection

    monkeypatch.setattr(lifecycle, "_accepted", count)
    return accepting


async def test_all_connections_that_arrive_in_a_turn_of_the_event_loop_are_accepted_in_the_next(listening, accepting):
    async with listening() as serving:
        clients = _ask_for_life(("127.0.0.1", serving.port), 40)
        assert await _answers(clients) == [200] * 40
        assert [count for count in accepting.taken if count] == [40]


async def test_without_file_descriptors_accepting_pauses_and_no_connection_is_lost(listening, accepting, monkeypatch):
    loop = asyncio.get_running_loop()
    later, call_later = [], loop.call_later

    def keep(delay, callback, *args):
        if callback.__name__ != "_accept_from":
            return call_later(delay, callback, *args)
        later.append((delay, callback, args))
        return None

    monkeypatch.setattr(loop, "call_later", keep)
    async with listening() as serving:
        accepting.full = True
        clients = _ask_for_life(("127.0.0.1", serving.port), 5)
        with capture_logs() as logs:
            await until(lambda: later, pause=0)
            for _ in range(100):
                await asyncio.sleep(0)
        assert accepting.taken == [0], "it does not try again and again"
        ((delay, callback, args),) = later
        assert delay == 1.0
        assert [event["event"] for event in logs] == ["cannot accept"]
        callback(*args)
        await until(lambda: len(later) == 2, pause=0)
        accepting.full = False
        callback(*args)
        assert await _answers(clients) == [200] * 5
        assert sum(accepting.taken) == 5
    callback(*args)  # the listener is closed by now, which does no harm


async def test_a_process_that_ran_out_of_file_descriptors_goes_on_when_it_has_some(start_process, connect):
    async with start_process() as process:
        held = [await connect(process.port) for _ in range(4)]
        for connection in held:
            assert (await connection.ask({"text": "invoice"}))[0] == 200
        pid = process.process.pid
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), most))
        waiting = [await connect(process.port) for _ in range(4)]
        for connection in waiting:
            connection.send(b'{"text": "courier"}')
        await until(lambda: "cannot accept" in process.log)
        assert (await held[0].ask({"text": "invoice"}))[0] == 200, "who is connected is served"
        for connection in held:
            connection.close()
        for connection in waiting:
            status, _, body = await connection.receive()
            assert (status, body["results"][0]["label"]) == (200, "shipping")
        assert process.log.count("cannot accept") < 10


def _metrics_port(process):
    return next(event["metrics_port"] for event in map(json.loads, process.lines) if event["event"] == "monitoring")


async def test_metrics_can_have_their_own_port_without_keys(start_process, connect, tmp_path):
    (tmp_path / "keys").write_text(key_line("tickets", "right"))
    closed = {"REFLUX_API_KEYS": str(tmp_path / "keys"), "REFLUX_METRICS_OPEN": "false"}
    async with start_process(REFLUX_METRICS_PORT="0", **closed) as process:
        async with httpx.AsyncClient() as client:
            own, main = (f"http://127.0.0.1:{port}" for port in (_metrics_port(process), process.port))
            page = await client.get(f"{own}/metrics")
            assert (page.status_code, "reflux_http_requests_total" in page.text) == (200, True)
            for path in ("/livez", "/readyz", "/startupz"):
                assert [(await client.get(f"{port}{path}")).status_code for port in (own, main)] == [200, 200]
            assert (await client.get(f"{main}/metrics", headers={"x-api-key": "right"})).status_code == 404
            for path in ("/classify", "/model", "/docs", "/openapi.json", "/"):
                missing = await client.get(f"{own}{path}", headers={"x-request-id": "mine"})
                assert (missing.status_code, missing.headers["x-request-id"]) == (404, "mine")
        process.terminate()


async def test_the_metrics_port_answers_until_the_last_request_has_ended(start_process, connect):
    quick = {"REFLUX_DRAIN_SECONDS": "0", "REFLUX_IDLE_GRACE_SECONDS": "0"}
    async with start_process(REFLUX_METRICS_PORT="0", **quick) as process:
        slow, watching = await connect(process.port), await connect(_metrics_port(process))
        body = json.dumps({"text": "courier"}).encode()
        slow.send(body[:5], length=len(body))
        await slow.writer.drain()
        assert (await watching.ask(None, method="GET", path="/readyz"))[0] == 200
        process.terminate()
        await refused(process.port)
        assert (await watching.ask(None, method="GET", path="/readyz"))[0] == 503
        assert (await (await connect(_metrics_port(process))).ask(None, method="GET", path="/livez"))[0] == 200
        slow.writer.write(body[5:])
        assert (await slow.receive())[0] == 200
        assert await process.ended() == 0
        await refused(_metrics_port(process))


async def test_sighup_under_load_swaps_the_bundle_and_loses_no_request(start_process, connect, make_bundle, tmp_path):
    bundles = [make_bundle(tmp_path / label, flip={"refund": label}) for label in ("shipping", "account", "technical")]
    labels = {bundle.manifest.version: bundle.path.name for bundle in bundles}

    def publish(bundle):
        contents = {name: bundle.path / name for name in bundle.manifest.files}
        return write_bundle(tmp_path / "served", contents, bundle.manifest)

    path = publish(bundles[0]).path
    async with start_process(REFLUX_BUNDLE=str(path), REFLUX_WORKERS="1", REFLUX_BATCH_TOKENS="512") as process:
        answered = dict.fromkeys(labels, 0)
        done = asyncio.Event()

        async def user():
            connection = await connect(process.port)
            while not done.is_set():
                status, _, body = await connection.ask({"texts": ["refund", "invoice"]})
                assert status == 200, body
                found = [result["label"] for result in body["results"]]
                assert found == [labels[body["version"]], "billing"]
                answered[body["version"]] += 1
            connection.close()

        async def exchange(bundle):
            version = publish(bundle).manifest.version
            wanted = answered[version] + 20
            process.process.send_signal(signal.SIGHUP)
            await until(lambda: answered[version] >= wanted)

        users = [asyncio.create_task(user()) for _ in range(20)]
        try:
            for number in range(1, 7):
                await exchange(bundles[number % len(bundles)])
        finally:
            done.set()
            await asyncio.gather(*users)
        assert min(answered.values()) > 0


async def test_sighup_with_an_invalid_bundle_is_logged_and_changes_nothing(
    start_process, connect, make_bundle, tmp_path
):
    path = make_bundle(tmp_path / "served").path
    async with start_process(REFLUX_BUNDLE=str(path)) as process:
        connection = await connect(process.port)
        _, _, before = await connection.ask({"text": "invoice"})
        (path / MODEL).write_bytes(b"")
        process.process.send_signal(signal.SIGHUP)
        await until(lambda: "not reloaded" in process.log)
        assert str(path / MODEL) in process.log
        assert "Traceback" not in process.log
        status, _, after = await connection.ask({"text": "invoice"})
        assert (status, after["version"], after["results"]) == (200, before["version"], before["results"])


async def test_signals_during_a_reload_cause_one_more_and_requests_get_409(
    listening, make_bundle, tmp_path, monkeypatch
):
    path = make_bundle(tmp_path / "served").path
    keys = tmp_path / "keys"
    keys.write_text(key_line("boss", "master", "admin"))
    async with (
        listening(bundle=path, api_keys=keys, admin=True, workers=0) as serving,
        httpx.AsyncClient(base_url=serving.url, headers={"x-api-key": "master"}) as client,
    ):
        began, go_on, loads = threading.Event(), threading.Event(), []

        def linger(*arguments, **options):
            loads.append(1)
            began.set()
            assert go_on.wait(30)
            return load_bundle(*arguments, **options)

        monkeypatch.setattr(registry, "load", linger)
        os.kill(os.getpid(), signal.SIGHUP)
        assert await asyncio.to_thread(began.wait, 30)
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGHUP)
            response = await client.post("/admin/reload")
            assert (response.status_code, response.json()["error"]["code"]) == (409, "reloading")
        assert len(loads) == 1
        written = make_bundle(path, flip={"refund": "shipping"}).manifest.version
        go_on.set()

        async def is_served():
            return (await client.get("/model")).json()["version"] == written

        await until(is_served)
        await serving.server._reloading
    assert len(loads) == 2


@pytest.mark.parametrize(
    ("host", "network"),
    [("0.0.0.0", True), ("::", True), ("", True), ("127.0.0.1", False), ("127.1.2.3", False), ("::1", False),
     ("::ffff:127.0.0.1", False), ("localhost", False), ("no.such.name.invalid", True)],
)  # fmt: skip
def test_without_keys_a_notice_says_who_can_reach_the_port(make_settings, write_keys, host, network):
    found = access(make_settings(host=host))
    assert (found.network, found.notice is not None) == (network, network)
    if network:
        assert "REFLUX_API_KEYS" in found.notice
    assert access(make_settings(host=host, api_keys=write_keys(tickets="right"))).notice is None


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
async def test_a_service_open_to_all_says_so_once_in_its_log_and_in_model(start_process, host):
    async with start_process(REFLUX_HOST=host, REFLUX_METRICS_PORT="0") as process:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.port}") as client:
            told = (await client.get("/model")).json()["access"]
        process.terminate()
        await process.ended()
    notices = [line["notice"] for line in map(json.loads, process.lines) if line["event"] == "open to all"]
    assert notices == ([told["notice"]] if host == "0.0.0.0" else [])
    assert told["network"] == (host == "0.0.0.0")


@pytest.mark.parametrize(
    ("setting", "told"), [("port", r"127\.0\.0\.1:\d+ .*REFLUX_PORT"), ("metrics_port", "REFLUX_METRICS_PORT")]
)
def test_a_port_that_is_taken_is_named(setting, told):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartupError, match=told):
            bind("127.0.0.1", taken.getsockname()[1], setting)
