"""Keys come from where they are said to be, and go to no server that is not meant."""

from __future__ import annotations

from typing import Any

import pytest

from distill.teachers.anthropic import AnthropicConfig
from distill.teachers.api.config import ApiConfig, is_local
from distill.teachers.errors import TeacherError
from distill.teachers.openai import OpenAIConfig

KEY = "sk-secret-0123456789"
OWN: dict[str, Any] = {"base_url": "http://localhost:1", "model": "m", "key_env": "K"}


@pytest.mark.parametrize("config", [OpenAIConfig, AnthropicConfig])
@pytest.mark.parametrize(
    ("base_url", "named", "sent"),
    [
        ("", False, True),
        ("https://openrouter.example/api/v1", False, False),
        ("http://localhost:8000", False, False),
        ("https://openrouter.example/api/v1", True, True),
    ],
)
def test_a_vendors_key_goes_to_no_other_host_unless_its_variable_is_named(
    monkeypatch, config: Any, base_url: str, named: bool, sent: bool
) -> None:
    variable = config.model_fields["key_env"].default
    monkeypatch.setenv(variable, KEY)
    settings = {**({"base_url": base_url} if base_url else {}), **({"key_env": variable} if named else {})}
    key = config(model="m", **settings).key()
    assert key == (KEY if sent else "")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"headers": {"api-key": "$NOT_SET"}}, "api-key names a variable that is not set"),
        ({"headers": {"api-key": "sk-1"}}, "api-key holds a key"),
        ({"headers": {"x-team": "5$"}}, r"\$ is not followed by the name"),
        ({"key_file": "/nowhere/key"}, "key_file: the file cannot be read"),
    ],
)
def test_a_key_that_cannot_be_had_is_said(settings: dict[str, Any], said: str) -> None:
    config = ApiConfig(**{**OWN, **settings})
    with pytest.raises(TeacherError, match=said):
        config.key() or config.filled_headers()


@pytest.mark.parametrize("key", [f"{KEY}\n{KEY}", f"{KEY}\u2026", f"\x1b{KEY}"])
def test_a_key_that_no_header_takes_is_refused_without_telling_it(monkeypatch, key: str) -> None:
    monkeypatch.setenv("K", key)
    with pytest.raises(TeacherError, match="the variable that key_env names") as failure:
        ApiConfig(**OWN).key()
    assert KEY not in str(failure.value)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://vllm:8000/v1", True),
        ("http://10.1.2.3/v1", True),
        ("https://api.openai.com/v1", False),
        ("https://8.8.8.8/v1", False),
    ],
)
def test_ones_own_servers_are_told_from_services(url: str, local: bool) -> None:
    assert is_local(url) is local
