"""A key or a text is never repeated, where it is refused or where a teacher's server repeats it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError

from service.errors import StartupError
from service.settings import Settings, load_settings
from service.shadow.errors import ShadowError
from service.shadow.settings import ShadowSettings
from service.shadow.teacher import make_teacher
from service.telemetry.logging import configure_logging
from tests.support.http_server import serving
from tests.support.waiting import until

KEY = "sk-canary0123456789"
TEXT = "my canary text 4111"
LABELS = ("billing", "shipping", "account", "technical")
PATHS = {
    *("bundle", "candidate", "tensorrt_cache", "api_keys", "path", "host", "split_key", "teacher", "witness"),
    "database_password_file",
}
"""Settings that take any text, most of them paths, which are told where they lead nowhere."""

MAPPING = json.dumps({"a": KEY})
TEACHER: dict[str, Any] = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}


def named(settings: Any, prefix: str) -> list[str]:
    return [f"{prefix}{name.upper()}" for name in settings.model_fields if name not in PATHS | {"shadow"}]


@pytest.mark.parametrize(
    "name",
    [*named(Settings, "REFLUX_"), *named(ShadowSettings, "REFLUX_SHADOW__"), "REFLUX_SHADOW__TEACHER", "REFLUX_SHADOW"],
)
@pytest.mark.parametrize("value", [KEY, json.dumps([KEY]), MAPPING, f'{{"{KEY}'])
def test_a_key_in_any_setting_is_not_told(monkeypatch, name, value):
    monkeypatch.setenv("REFLUX_BUNDLE", "bundle")
    monkeypatch.setenv(name, value)
    if (name, value) == ("REFLUX_SHADOW__TEACHER", MAPPING):  # whose keys are looked at when the teacher is made
        assert KEY not in repr(load_settings())
        return
    with pytest.raises(StartupError) as refused:
        load_settings()
    assert name.split("__")[0] in str(refused.value)
    assert KEY not in f"{refused.value}{refused.value.__cause__}"


@pytest.mark.parametrize(
    "config",
    [
        {"kind": KEY},
        {**TEACHER, "key_env": KEY},
        {**TEACHER, "key_file": KEY},
        {**TEACHER, "key_file": f"/{KEY}"},
        {**TEACHER, "base_url": KEY},
        {**TEACHER, "base_url": f"http://me:{KEY}@api.example:port/v1"},
        {**TEACHER, "base_url": f"https://me:{KEY}@api.example/v1"},
        {**TEACHER, "base_url": f"https://api.example/v1?api-key={KEY}"},
        {**TEACHER, "headers": KEY},
        {**TEACHER, "headers": [KEY]},
        {**TEACHER, "headers": {"x-key": [KEY]}},
        {**TEACHER, "headers": {"authorization": f"Bearer {KEY}"}},
        {**TEACHER, "headers": {"x-key": f"a$b{KEY.replace('-', '')}"}},
        {**TEACHER, "headers": {"x-key": f"{KEY}$"}},
        {**TEACHER, "headers": {"x-key": f"{KEY}\n$$"}},
        {**TEACHER, "extra_body": KEY},
        {**TEACHER, "extra_body": [KEY]},
        {**TEACHER, "api_key": KEY},
        {**TEACHER, "timeout_seconds": KEY},
        {**TEACHER, "prompt": {"examples": KEY}},
        {"kind": "ensemble", "members": [{"teacher": {**TEACHER, "headers": KEY}}, {"teacher": {"kind": KEY}}]},
        {"kind": "ensemble", "members": [{"teacher": KEY}, {"teacher": {**TEACHER, "key_env": KEY}, "weight": KEY}]},
        {"kind": "anthropic", "model": "m", "headers": {"x-api-key": KEY}},
        {"kind": "bundle", "path": "nowhere", "threads": KEY},
    ],
)
def test_a_key_in_the_configuration_of_a_teacher_is_not_told(config):
    with pytest.raises(ShadowError) as refused:
        make_teacher(ShadowSettings(enabled=True, teacher=config), LABELS)
    told = str(refused.value)
    assert told.startswith("shadow.teacher")
    for secret in (KEY, KEY.replace("-", "")):
        assert secret not in told


def test_a_library_that_prints_what_was_given_is_not_told_it():
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(ShadowSettings).validate_python({"rate": KEY, "teacher": KEY})
    assert KEY not in str(refused.value)


def test_a_header_for_spans_that_cannot_be_read_is_not_logged(capsys):
    before = logging.getLogger().handlers[:]
    try:
        configure_logging()
        logging.getLogger("opentelemetry.util.re").warning("Header format invalid! name=value pairs: %s", KEY)
    finally:
        logging.getLogger().handlers[:] = before
    logged = capsys.readouterr().err
    assert "Header format invalid" in logged
    assert KEY not in logged


@pytest.mark.parametrize("status", [400, 401])
async def test_what_a_teachers_server_repeats_is_in_no_log_and_no_metric(start_process, status):
    came = []

    def echo(request: httpx.Request) -> httpx.Response:
        came.append(f"{request.headers.raw} {request.content.decode()}")
        return httpx.Response(status, json={"error": {"message": f"bad: {json.loads(request.content)} {came[-1]}"}})

    async with serving(echo) as server:
        teacher = {
            "kind": "openai",
            "model": "m",
            "base_url": f"{server.url}/v1",
            "key_env": "CANARY_KEY",
            "usd_per_million": {"input": 0, "output": 0},
            "headers": {"x-team": "$CANARY_KEY"},
        }
        variables = {
            "CANARY_KEY": KEY,
            "REFLUX_SHADOW__ENABLED": "true",
            "REFLUX_SHADOW__RATE": "1",
            "REFLUX_SHADOW__FLUSH_SECONDS": "0.01",
            "REFLUX_SHADOW__TEACHER": json.dumps(teacher),
            "REFLUX_DRAIN_SECONDS": "0",
            "REFLUX_IDLE_GRACE_SECONDS": "0",
            "REFLUX_LOG_LEVEL": "debug",
            "REFLUX_ACCESS_LOG": "true",
        }
        async with start_process(**variables) as process:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.port}", timeout=30) as client:
                for _ in range(5):
                    assert (await client.post("/classify", json={"text": TEXT})).status_code == 200
                await until(lambda: "teacher failed" in process.log)
                pages = [(await client.get(path)).text for path in ("/metrics", "/model", "/gap")]
            process.terminate()
            assert await process.ended() == 0
    assert KEY in came[0]
    failures = [json.loads(line) for line in process.lines if "teacher failed" in line]
    assert {(line["kind"], line["status"]) for line in failures} == {("ApiError", status)}
    for told in (process.log, *pages):
        assert KEY not in told
        assert "canary" not in told


def test_a_file_of_keys_that_is_a_key_is_not_told(monkeypatch, tmp_path):
    from service.app import create_app

    monkeypatch.chdir(tmp_path)
    with pytest.raises(StartupError, match="REFLUX_API_KEYS") as refused:
        create_app(Settings(bundle=tmp_path, api_keys=Path(KEY)))
    assert KEY not in str(refused.value)
