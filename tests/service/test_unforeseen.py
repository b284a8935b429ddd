"""An unexpected exception is, on every route, an error with the request's id, and one log line."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
import structlog

from export.bundle import classifier
from service.inference.registry import Models
from service.inference.scheduler import Scheduler
from service.routes import health
from service.shadow.pipeline import ShadowPipeline
from service.telemetry.logging import configure_logging, describe, log_loop_errors
from tests.support.fragile_tokenizer import PanicException, break_tokenizers
from tests.support.tiny_bundle import WORDS

SECRET = "xyzzyplugh"
STATIC = {"/v2", "/docs", "/openapi.json", "/"}
"""Routes that need nothing which could fail."""

BODIES: dict[str, list[dict[str, Any]]] = {
    "/classify": [
        {"text": "invoice", "top_k": 2, "logits": True, "embedding": True},
        {"texts": ["invoice", "parcel"], "top_k": 2},
        {"input": ["invoice"], "model": "tiny", "raw_scores": True},
    ],
    "/gap/ask": [{"text": "invoice"}],
    "/predict": [{"inputs": [["invoice"]], "raw_scores": True, "truncate": True}],
    "/": [{"inputs": "invoice", "parameters": {"top_k": 2, "function_to_apply": "softmax"}}],
    "/invocations": [{"inputs": "invoice", "parameters": {"top_k": 2}}],
    "/vertex": [{"instances": [{"inputs": "invoice", "raw_scores": True}, "parcel"], "parameters": {}}],
    "/v1/models/tiny:predict": [{"instances": ["invoice"]}],
    "/v1/classify": [{"input": ["invoice"], "model": "tiny", "use_activation": False, "user": "me"}],
    "/v1/decisions": [
        {
            "model": "tiny",
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "invoice"}]}],
            "questions": [{"type": "choice", "name": "a", "choices": [{"value": label} for label in WORDS]}],
        }
    ],
    "/v1/systemone": [
        {"model": "tiny", "state": "invoice", "questions": {"a": {"type": "choice", "criteria": dict.fromkeys(WORDS)}}}
    ],
    "/v2/models/tiny/infer": [
        {
            "id": "mine",
            "inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["invoice"]}],
            "outputs": [{"name": "probabilities", "parameters": {"classification": 2, "binary_data": False}}],
            "parameters": {"timeout": 60_000_000, "binary_data_output": False},
        },
        {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 4}}]},
    ],
}
HOSTILE = (
    "9" * 400,
    "-" + "9" * 400,
    "9" * 5000,
    "18446744073709551616",
    "1e999",
    "-1e999",
    "1e308",
    "1e-400",
    "1.5",
    "-1",
    "0",
    "NaN",
    "Infinity",
    "-Infinity",
    "[" * 5000 + "]" * 5000,
    '{"a":' * 5000 + "1" + "}" * 5000,
    '"\\ud800"',
    '"a\\u0000b"',
    '""',
    f'"{"9" * 400}"',
    "null",
    "true",
    "{}",
    "[]",
)


def places(node: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path to every value in a JSON value."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [way, *(place for key, value in items for place in places(value, (*way, key)))]


def replaced(body: Any, way: tuple[Any, ...], value: str) -> str:
    """Return a body's JSON with the value at a path replaced by `value`, which may be invalid JSON."""
    if not way:
        return value
    items = body.items() if isinstance(body, dict) else enumerate(body)
    parts = [
        (f"{json.dumps(key)}:" if isinstance(body, dict) else "")
        + (replaced(item, way[1:], value) if key == way[0] else json.dumps(item))
        for key, item in items
    ]
    return ("{%s}" if isinstance(body, dict) else "[%s]") % ",".join(parts)


def is_error(answer: httpx.Response) -> bool:
    """Whether an answer is an error with the request's id."""
    body = answer.json()
    return bool(body.get("error") or body.get("detail")) and "x-request-id" in answer.headers


@pytest.mark.parametrize("path", BODIES)
async def test_no_value_at_any_place_of_a_body_is_a_fault_of_the_service(client, path):
    for body in BODIES[path]:
        for way in places(body):
            for value in HOSTILE:
                content = replaced(body, way, value)
                answer = await client.post(path, content=content, headers={"content-type": "application/json"})
                told = (way, value[:20], answer.status_code, answer.text[:200])
                assert answer.status_code == 200 or (answer.status_code < 500 and is_error(answer)), told


@pytest.mark.parametrize("name", ["x-request-timeout-ms", "inference-header-content-length", "x-reflux-variant"])
@pytest.mark.parametrize(
    "value", ["9" * 400, "9" * 5000, "-1", "0", "nan", "inf", "1e999", "1e308", "1e-400", "²", "0x10", " "]
)
async def test_no_value_of_a_header_is_a_fault_of_the_service(client, name, value):
    for path in ("/classify", "/v2/models/tiny/infer"):
        answer = await client.post(path, json=BODIES[path][0], headers={name: value.encode("latin-1")})
        assert answer.status_code == 200 or (answer.status_code < 500 and is_error(answer))


def fail(*_: Any, **__: Any) -> Any:
    raise LookupError(f"nobody foresaw\n{SECRET}")


@pytest.fixture
def broken(monkeypatch):
    """`broken()`: from now on, everything that routes call raises an exception."""

    def break_all() -> None:
        for method in ("choose", "reload"):
            monkeypatch.setattr(Models, method, fail)
        monkeypatch.setattr(Scheduler, "submit", fail)
        for name in ("alive", "versions", "loaded"):
            monkeypatch.setattr(Models, name, property(fail))
        monkeypatch.setattr(health, "render", fail)

    return break_all


def operations(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (method.upper(), path.replace("{name}", "tiny").replace("{version}", "1"))
        for path, methods in document["paths"].items()
        for method in methods
    ]


async def test_on_every_route_an_exception_is_one_error_and_one_log_line(running, broken):
    async with running(admin=True, workers=0) as client:
        document = (await client.get("/openapi.json")).json()
        broken()
        failed = set()
        for method, path in operations(document):
            body = BODIES.get(path.replace("/versions/1", ""), [{}])[0] if method == "POST" else None
            with structlog.testing.capture_logs() as log:
                answer = await client.request(method, path, json=body, headers={"x-request-id": "mine"})
            if answer.status_code == 200:
                assert path in STATIC, path
                continue
            failed.add(path)
            assert answer.status_code == 500, (path, answer.text)
            assert is_error(answer)
            assert answer.headers["x-request-id"] == "mine"
            assert SECRET not in answer.text
            assert [(line["event"], line["request_id"]) for line in log] == [("request failed", "mine")], path
        assert {"/classify", "/model", "/gap", "/metrics", "/livez", "/admin/reload", "/v2/models/tiny/infer"} <= failed


async def test_on_a_socket_too_and_the_connection_goes_on(listening, broken, caplog, connect):
    async with listening(workers=0) as serving:
        broken()
        connection = await connect(serving.port)
        for path, method in (("/classify", "POST"), ("/model", "GET"), ("/v2/models/tiny/infer", "POST")):
            with structlog.testing.capture_logs() as log, caplog.at_level(logging.WARNING):
                status, headers, body = await connection.ask(BODIES.get(path, [{}])[0], method=method, path=path)
            assert (status, bool(body["error"])) == (500, True)
            assert headers["x-request-id"]
            assert [line["event"] for line in log] == ["request failed"]
        assert not [record for record in caplog.records if record.name.startswith("uvicorn")]
        connection.close()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("path", ["/classify", "/v1/models/tiny:predict"])
async def test_a_text_that_breaks_the_tokenizer_fails_alone(running, monkeypatch, workers, path):
    break_tokenizers(monkeypatch, "fragile")
    key = "texts" if path == "/classify" else "instances"
    async with running(workers=workers) as client:
        texts = ["invoice", f"a fragile {SECRET}", "parcel"]
        with structlog.testing.capture_logs() as log:
            asked = [client.post(path, json={key: [text]}) for text in texts]
            answers = await asyncio.gather(*asked, client.post(path, json={key: texts}))
        assert [answer.status_code for answer in answers] == [200, 500, 200, 500]
        assert is_error(answers[1])
        assert "text 2 of 3 could not be classified" in answers[3].text
        assert [line["event"] for line in log] == ["request failed"] * 2
        assert SECRET not in answers[1].text + answers[3].text
        assert SECRET not in "".join(describe(line["exc_info"]) for line in log)
        assert (await client.get("/livez")).status_code == 200
        assert (await client.post(path, json={key: ["invoice"]})).status_code == 200


@pytest.mark.parametrize("workers", [0, 1])
async def test_a_panic_in_the_run_itself_fails_its_text_alone(running, monkeypatch, workers):
    run = classifier.Classifier.run

    def panic(classifier: Any, rows: Any) -> Any:
        if any(len(row.ids) == 4 for row in rows):
            raise PanicException
        return run(classifier, rows)

    async with running(workers=workers) as client:
        monkeypatch.setattr(classifier.Classifier, "run", panic)
        asked = [client.post("/classify", json={"text": text}) for text in ("my invoice", "my late parcel")]
        assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 500]
        assert (await client.get("/livez")).status_code == 200


async def test_an_exception_that_ends_the_inference_fails_the_request(running, monkeypatch):
    async with running(workers=0) as client:
        monkeypatch.setattr("service.inference.stage_runner.BatchResult", fail)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_loop_errors)
        with structlog.testing.capture_logs() as log:
            answer = await client.post("/classify", json={"text": "invoice"})
        assert answer.status_code == 500
        assert {line["event"] for line in log} <= {"request failed", "event loop: unforeseen error"}


async def test_a_fault_in_deferred_counting_affects_no_answer(running, monkeypatch):
    async with running(workers=0) as client:
        monkeypatch.setattr(ShadowPipeline, "observe", fail)
        assert (await client.post("/classify", json={"text": "invoice"})).status_code == 200
        with structlog.testing.capture_logs() as log:
            page = await client.get("/metrics")
        assert page.status_code == 200
        assert [line["event"] for line in log] == ["deferred work failed"]


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def real_logging(monkeypatch):
    """`real_logging()`: from now on, log as the service does."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(logging, "raiseExceptions", True)
    yield lambda: configure_logging("info")
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_logged_traceback_has_places_and_kinds_but_no_messages(real_logging, capsys):
    real_logging()

    def inner() -> None:
        try:
            raise ValueError(f"input_value='{SECRET}'")
        except ValueError as error:
            raise LookupError(SECRET) from error

    for logger in (structlog.get_logger("ours"), logging.getLogger("a.library")):
        try:
            inner()
        except LookupError:
            logger.exception("failed")
    try:
        raise ExceptionGroup(SECRET, [ValueError(SECRET), OSError(5, "Input/output error")])
    except ExceptionGroup:
        logging.getLogger("a.library").exception("failed")
    first, second, third = lines_of(capsys)
    for line in (first, second):
        assert line["event"] == "failed"
        assert line["exception"].index("ValueError") < line["exception"].index("LookupError")
        assert "in inner" in line["exception"]
    assert "Input/output error" in third["exception"]
    assert SECRET not in f"{first}{second}{third}"


async def test_an_error_on_the_event_loop_is_logged_without_its_message(real_logging, capsys):
    real_logging()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_errors)
    loop.call_soon(fail, SECRET)
    task = loop.create_task(asyncio.sleep(0, SECRET))
    await task
    loop.call_exception_handler({"message": f"unclosed <transport {SECRET}>"})
    lines = lines_of(capsys)
    assert [line["event"] for line in lines] == ["event loop: unforeseen error", "event loop"]
    assert "LookupError" in lines[0]["exception"]
    assert SECRET not in f"{lines}"
