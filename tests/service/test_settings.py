"""An invalid setting stops the start, with a message that names its environment variable."""

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
    """`environment(REFLUX_X="...")`: load the settings from these variables and a bundle alone."""
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
        REFLUX_SHADOW__TEACHER='{"kind": "bundle", "path": "teacher"}',
        REFLUX_SHADOW__PHONE_COUNTRIES='["de", "US"]',
        REFLUX_CORS_ORIGINS='["https://a.example", "http://b:8080"]',
    )
    assert (settings.port, settings.console, settings.shadow.rate) == (9000, False, 0.5)
    assert settings.shadow.phone_countries == ("DE", "US")
    assert settings.cors_origins[1] == "http://b:8080"
    assert settings.shadow.teacher == {"kind": "bundle", "path": "teacher"}


def test_a_nested_mapping_may_be_given_key_by_key(environment):
    settings = environment(REFLUX_SHADOW__TEACHER__KIND="bundle", REFLUX_SHADOW__TEACHER__PATH="teacher")
    assert settings.shadow.teacher == {"kind": "bundle", "path": "teacher"}


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_admin_without_keys_is_refused_with_the_remedy(environment, host):
    with pytest.raises(StartupError, match=r"REFLUX_ADMIN .*REFLUX_API_KEYS.*reflux keys new NAME --admin") as refused:
        environment(REFLUX_ADMIN="true", REFLUX_HOST=host)
    assert "\n" not in str(refused.value)
    assert environment(REFLUX_ADMIN="true", REFLUX_API_KEYS="keys").admin


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PORT": "tcp://10.0.0.1:8080"}, r"REFLUX_PORT\b"),
        ({"PORT": "70000"}, r"REFLUX_PORT\b"),
        ({"WORKERS": "-1"}, r"REFLUX_WORKERS\b"),
        ({"THREADS": "0"}, r"REFLUX_THREADS\b"),
        ({"BATCH_TOKENS": "many"}, r"REFLUX_BATCH_TOKENS\b"),
        ({"TIMEOUT_SECONDS": "0"}, r"REFLUX_TIMEOUT_SECONDS\b"),
        ({"LOG_LEVEL": "loud"}, r"REFLUX_LOG_LEVEL\b"),
        ({"DRAIN_SECONDS": "-1"}, r"REFLUX_DRAIN_SECONDS\b"),
        ({"SHADOW__RATE": "2"}, r"REFLUX_SHADOW__RATE\b"),
        ({"SHADOW__RATES": "0.5"}, r"(?i)REFLUX_SHADOW__RATES\b"),
        ({"BUNDEL": "bundle"}, r"REFLUX_BUNDEL\b"),
        ({"SHADOW": "{"}, r"REFLUX_SHADOW\b"),
        (
            {"SHADOW__PHONE_COUNTRIES": '["XX", "Germany", "GB"]'},
            r"REFLUX_SHADOW__PHONE_COUNTRIES: .*XX, GERMANY: no country",
        ),
        ({"SHADOW__PHONE_COUNTRIES": "DE"}, "REFLUX_SHADOW"),
        ({"CORS_ORIGINS": "https://a.example"}, "REFLUX_CORS_ORIGINS: not JSON"),
        ({"PORT": "x", "THREADS": "x"}, r"REFLUX_PORT.*REFLUX_THREADS"),
        ({"QUEUE_LIMIT": "63"}, r"REFLUX_QUEUE_LIMIT is 63, less than the 64 of REFLUX_MAX_TEXTS"),
        (
            {"MAX_UNFINISHED_BYTES": "1999", "MAX_BODY_BYTES": "1000"},
            r"REFLUX_MAX_UNFINISHED_BYTES is 1999, less than twice the 1000 of REFLUX_MAX_BODY_BYTES",
        ),
        ({"METRICS_PORT": "9000", "PORT": "9000"}, r"REFLUX_METRICS_PORT and REFLUX_PORT are both 9000"),
    ],
)
def test_an_invalid_setting_names_its_variable(environment, variables, message):
    with pytest.raises(StartupError, match=message):
        environment(**{f"REFLUX_{name}": value for name, value in variables.items()})


def test_arguments_take_precedence_over_the_environment(environment):
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
