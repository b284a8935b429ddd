"""`reflux status`: the exit code says the verdict, and what is printed says why and what to do next."""

import asyncio
import json
import re

import httpx
import pytest
from typer.testing import CliRunner

from reflux.cli import app
from tests.support.gap_bodies import VERSION, gap_body
from tests.support.http_server import serving
from tests.support.service_process import service_process
from tests.support.sockets import dead_address, tcp_server

KEY = "reflux_a-key-of-a-person"


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("REFLUX_API_KEY", raising=False)


def run(*arguments):
    return CliRunner().invoke(app, ["status", *map(str, arguments)], env={"COLUMNS": "120"})


async def against(handler, *arguments, path=""):
    """Run the command against a handler; its address comes before `arguments`."""
    async with serving(handler) as server:
        return await asyncio.to_thread(run, server.url + path, *arguments)


async def test_a_service_that_answers_drop_by_drop_is_given_up(monkeypatch):
    monkeypatch.setattr("reflux.status.TIMEOUT_SECONDS", 0.3)

    async def drip(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with tcp_server(drip) as address:
        done = await asyncio.wait_for(asyncio.to_thread(run, address), 30)
    assert done.exit_code == 4
    assert "no answer within 0.3 s" in " ".join(done.output.split())


def gap(state):
    return lambda request: httpx.Response(200, json=gap_body(state))


def refusing(status, message):
    return lambda request: httpx.Response(status, json={"error": {"code": "no", "message": message, "request_id": "1"}})


@pytest.mark.parametrize(
    ("state", "code", "next_command"),
    [
        ("calm", 0, r"reflux status http://\S+  # again before each rollout"),
        ("watch", 1, r"curl -s \S+/gap/disagreements\?limit=50&variant=stable'"),
        ("leave", 2, r"curl -s -X POST \S+/admin/reload"),
        ("teacher", 2, "reflux label TASK.yaml --dry-run"),
        ("blind", 3, r"curl -s \S+/metrics \| grep shadow_results"),
        ("nothing", 1, "reflux status .*when more texts have been compared"),
        ("off", 3, "REFLUX_SHADOW__ENABLED=true .* reflux serve"),
    ],
)
async def test_the_exit_code_is_the_verdict_and_the_next_command_fits_it(state, code, next_command):
    done = await against(gap(state))
    assert done.exit_code == code
    body = gap_body(state)
    assert done.stdout.startswith(f"{body['verdict'].upper()}  {body['message']}\n")
    assert VERSION in done.stdout
    assert re.search(rf"^next: {next_command}", done.stdout, re.MULTILINE)


async def test_every_window_has_a_row_and_a_reason_a_line():
    done = await against(gap("blind"))
    body = gap_body("blind")
    for name in body["windows"]:
        assert re.search(rf"{name}\b.*15\.1 %.*\b{body['windows'][name]['compared']}\b.*99\.8 %", done.stdout)
    for reason in body["blind"]:
        assert f"  - {reason}\n" in done.stdout
    assert "last comparison 2 h ago" in done.stdout


async def test_a_window_can_be_chosen_and_is_asked_for():
    asked = []

    def handler(request):
        asked.append(dict(request.url.params))
        return gap("calm")(request)

    done = await against(handler, "--window", "1h", "--variant", "candidate")
    assert asked == [{"window": "1h", "variant": "candidate"}]
    assert [line for line in done.stdout.splitlines() if "1h" in line]
    assert not [line for line in done.stdout.splitlines() if "7d" in line]


async def test_json_prints_the_body_and_keeps_the_exit_code():
    done = await against(gap("leave"), "--json")
    assert done.exit_code == 2
    assert json.loads(done.stdout) == gap_body("leave")


async def test_an_address_may_lack_its_scheme_and_have_a_path_of_a_gateway():
    paths = []

    def handler(request):
        paths.append(request.url.path)
        return gap("calm")(request)

    async with serving(handler) as server:
        done = await asyncio.to_thread(run, server.url.removeprefix("http://") + "/desk/")
    assert (done.exit_code, paths) == (0, ["/desk/gap"])


@pytest.mark.parametrize("source", ["file", "environment"])
async def test_a_key_is_sent_and_never_printed(tmp_path, monkeypatch, source):
    def handler(request):
        assert request.headers["authorization"] == f"Bearer {KEY}"
        return gap("watch")(request)

    (tmp_path / "a key").write_text(f"{KEY}\n")
    if source == "environment":
        monkeypatch.setenv("REFLUX_API_KEY", KEY)
    done = await against(handler, *(["--api-key-file", tmp_path / "a key"] if source == "file" else []))
    assert done.exit_code == 1
    assert KEY not in done.output
    if source == "file":  # a command that is copied and run needs the key as well
        assert f"""-H "authorization: Bearer $(cat '{tmp_path / "a key"}')" """ in done.stdout


@pytest.mark.parametrize(
    ("handler", "named"),
    [
        (refusing(401, "a key is needed"), "401: a key is needed; give a key with --api-key-file FILE"),
        (refusing(422, "there is no variant 'candidate'; there is stable"), "there is no variant 'candidate'"),
        (refusing(503, "the bundle is not loaded yet"), "503: the bundle is not loaded yet"),
        (lambda request: httpx.Response(500, text="oops"), "500: see the log of the service"),
        (
            lambda request: httpx.Response(308, headers={"location": "https://desk.example/gap"}),
            "redirects to https://desk.example/gap; give the address of a Reflux service",
        ),
        (lambda request: httpx.Response(404, text="<html>"), "the address of a Reflux service"),
        (lambda request: httpx.Response(200, text="<html>"), "something else than a gap"),
        (lambda request: httpx.Response(200, json={"status": "ok"}), "no verdict"),
        (lambda request: httpx.Response(200, json=gap_body("calm") | {"verdict": "fine"}), "no verdict"),
    ],
)
async def test_an_answer_without_a_verdict_is_none_and_says_what_to_do(handler, named):
    done = await against(handler)
    assert (done.exit_code, done.stdout) == (4, "")
    assert done.stderr.startswith("error: ")
    assert named in done.stderr
    assert done.stderr.count("\n") == 1


async def test_a_real_service_is_judged_until_it_is_gone(tiny_bundle, tiny_teacher, tmp_path):
    settings = {
        "REFLUX_BUNDLE": str(tiny_bundle.path),
        "REFLUX_WORKERS": "1",
        "REFLUX_BATCH_TOKENS": "512",
        "REFLUX_SHADOW__ENABLED": "true",
        "REFLUX_SHADOW__RATE": "1",
        "REFLUX_SHADOW__TEACHER": json.dumps({"kind": "bundle", "path": str(tiny_teacher.path)}),
        "REFLUX_SHADOW__PATH": str(tmp_path / "shadow.sqlite"),
        "REFLUX_DRAIN_SECONDS": "0",
        "REFLUX_IDLE_GRACE_SECONDS": "0",
    }
    async with service_process(**settings) as process:
        address = f"127.0.0.1:{process.port}"
        done = await asyncio.to_thread(run, address)
        assert done.exit_code == 1
        assert done.stdout.startswith("WATCH  No text has been compared with this teacher yet")
        assert tiny_bundle.manifest.version in done.stdout
        process.terminate()
        await process.ended()
        assert (await asyncio.to_thread(run, address)).exit_code == 4


def test_a_service_that_is_gone_is_no_answer():
    done = run(dead_address())
    assert (done.exit_code, done.stdout) == (4, "")
    assert "does not answer" in done.stderr
    assert "is the service running" in done.stderr


async def test_a_connection_that_breaks_is_no_answer():
    async def close(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with tcp_server(close) as address:
        done = await asyncio.to_thread(run, address)
    assert done.exit_code == 4
    assert "does not answer" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("http://localhost", "--window", "2h"),
        ("http://localhost", "--nonsense"),
        ("http://localhost", "another"),
        ("ftp://localhost",),
        ("http://[",),
        ("http://localhost", "--api-key-file", "/nowhere/key"),
    ],
)
def test_a_wrong_use_is_no_verdict_either(arguments):
    done = run(*arguments)
    assert done.exit_code == 4
    assert done.stderr


@pytest.mark.parametrize("content", [b"", b"two words", "schlüssel".encode(), b"\xff"])
def test_a_file_without_a_key_is_named(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    done = run("http://localhost", "--api-key-file", tmp_path / "key")
    assert done.exit_code == 4
    assert str(tmp_path / "key") in done.stderr
