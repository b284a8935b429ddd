"""A setting that does not fit stops the start and names its environment variable."""

from __future__ import annotations

import ast
import inspect
import os
from itertools import pairwise

import pytest

from service.errors import StartupError
from service.settings import Settings, load_settings, variable
from service.shadow.settings import ShadowSettings


@pytest.fixture
def environment(monkeypatch):
    """`environment(REFLUX_X="...")`: load the settings from these variables alone, and a bundle."""
    for name in list(os.environ):
        if name.upper().startswith("REFLUX_"):
            monkeypatch.delenv(name)

    def load(**variables):
        for name, value in {"REFLUX_BUNDLE": "bundle", **variables}.items():
            monkeypatch.setenv(name, value)
        return load_settings()

    return load


def test_settings_come_from_the_environment(environment):
    settings = environment(
        REFLUX_PORT="9000",
        REFLUX_CONSOLE="false",
        REFLUX_SHADOW__RATE="0.5",
        REFLUX_CORS_ORIGINS='["https://a.example", "http://b:8080"]',
        REFLUX_SHADOW__TEACHER='{"kind": "bundle", "path": "teacher"}',
    )
    assert (settings.port, settings.console, settings.shadow.rate) == (9000, False, 0.5)
    assert settings.shadow.teacher == {"kind": "bundle", "path": "teacher"}
    assert settings.cors_origins == ("https://a.example", "http://b:8080")


def test_a_nested_mapping_may_be_given_key_by_key(environment):
    settings = environment(REFLUX_SHADOW__TEACHER__KIND="bundle", REFLUX_SHADOW__TEACHER__PATH="teacher")
    assert settings.shadow.teacher == {"kind": "bundle", "path": "teacher"}


def test_countries_of_telephone_numbers_are_codes_that_there_are(environment):
    assert environment(REFLUX_SHADOW__PHONE_COUNTRIES='["de", "US"]').shadow.phone_countries == ("DE", "US")
    with pytest.raises(StartupError, match=r"REFLUX_SHADOW__PHONE_COUNTRIES: .*XX, GERMANY: no country"):
        environment(REFLUX_SHADOW__PHONE_COUNTRIES='["XX", "Germany", "GB"]')
    with pytest.raises(StartupError, match="REFLUX_SHADOW"):
        environment(REFLUX_SHADOW__PHONE_COUNTRIES="DE")


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_admin_without_keys_is_refused_with_the_remedy(environment, host):
    with pytest.raises(StartupError, match=r"REFLUX_ADMIN .*REFLUX_API_KEYS.*reflux keys new NAME --admin") as refused:
        environment(REFLUX_ADMIN="true", REFLUX_HOST=host)
    assert "\n" not in str(refused.value)
    assert environment(REFLUX_ADMIN="true", REFLUX_API_KEYS="keys").admin


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        *(
            ({name: value}, rf"(?i){name}\b")
            for name, value in [
                ("REFLUX_PORT", "tcp://10.0.0.1:8080"),
                ("REFLUX_PORT", "70000"),
                ("REFLUX_WORKERS", "-1"),
                ("REFLUX_THREADS", "0"),
                ("REFLUX_BATCH_TOKENS", "many"),
                ("REFLUX_TIMEOUT_SECONDS", "0"),
                ("REFLUX_LOG_LEVEL", "loud"),
                ("REFLUX_DRAIN_SECONDS", "-1"),
                ("REFLUX_SHADOW__RATE", "2"),
                ("REFLUX_SHADOW__RATES", "0.5"),
                ("REFLUX_BUNDEL", "bundle"),
                ("REFLUX_SHADOW", "{"),
            ]
        ),
        ({"REFLUX_PORT": "x", "REFLUX_THREADS": "x"}, r"REFLUX_PORT.*REFLUX_THREADS"),
        ({"REFLUX_CORS_ORIGINS": "https://a.example"}, "REFLUX_CORS_ORIGINS: not JSON"),
        ({"REFLUX_QUEUE_LIMIT": "63"}, "REFLUX_QUEUE_LIMIT is 63, less than the 64 of REFLUX_MAX_TEXTS"),
        (
            {"REFLUX_MAX_UNFINISHED_BYTES": "1999", "REFLUX_MAX_BODY_BYTES": "1000"},
            "REFLUX_MAX_UNFINISHED_BYTES is 1999, less than twice the 1000 of REFLUX_M",
        ),
        (
            {"REFLUX_PORT": "9000", "REFLUX_METRICS_PORT": "9000"},
            "REFLUX_METRICS_PORT and REFLUX_PORT are both 9000",
        ),
    ],
)
def test_what_does_not_fit_names_its_variables(environment, variables, told):
    with pytest.raises(StartupError, match=told):
        environment(**variables)


def test_what_a_command_line_gives_comes_before_the_environment(environment):
    environment(REFLUX_PORT="9000")
    settings = load_settings(port=9001)
    assert (settings.port, str(settings.bundle)) == (9001, "bundle")
    with pytest.raises(StartupError, match="REFLUX_PORT"):
        load_settings(port=-1)


def test_a_missing_bundle_names_its_variable(environment, monkeypatch):
    environment()
    monkeypatch.delenv("REFLUX_BUNDLE")
    with pytest.raises(StartupError, match="REFLUX_BUNDLE"):
        load_settings()


def test_a_wrong_value_is_not_repeated(environment):
    with pytest.raises(StartupError) as refused:
        environment(REFLUX_SHADOW__ENABLED="hunter2")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("settings", [Settings, ShadowSettings])
def test_every_setting_is_documented(settings):
    (body,) = (node.body for node in ast.parse(inspect.getsource(settings)).body if isinstance(node, ast.ClassDef))
    documented = {field.target.id for field, below in pairwise(body) if is_string(below) and hasattr(field, "target")}
    assert documented == set(settings.model_fields)


def is_string(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def test_the_variable_of_a_nested_setting_is_joined():
    assert variable("shadow", "rate") == "REFLUX_SHADOW__RATE"
