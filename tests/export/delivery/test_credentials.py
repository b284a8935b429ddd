"""The login is found where Docker and Kubernetes put it, and a file or a program that fails is told."""

import base64
import json

import pytest

from export.delivery.credentials import Login, login_for
from export.delivery.errors import DeliveryError
from tests.support.registry import basic

CI = Login("ci", "let me in")


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """`docker(config)` writes Docker's configuration."""
    (tmp_path / "docker").mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))

    def write(config):
        content = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "docker" / "config.json").write_text(content)

    return write


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """`helper(answer)` makes the program `docker-credential-safe`, which knows registry.example."""

    def make(answer):
        program = tmp_path / "docker-credential-safe"
        program.write_text(
            f"#!/bin/sh\n[ \"$(cat)\" = registry.example ] || {{ echo not found; exit 1; }}\necho '{answer}'\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return make


def test_without_a_configuration_there_is_no_login():
    assert login_for("registry.example") is None


def test_a_user_without_a_home_has_no_login(monkeypatch):
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 1234567)  # no such user
    assert login_for("registry.example") is None


@pytest.mark.parametrize(
    ("config", "login"),
    [
        ({}, None),
        ({"auths": {"other.example": {"auth": basic()}}}, None),
        ({"auths": {"registry.example": {}}}, None),
        ({"auths": {"registry.example": {"auth": basic()}}}, CI),
        ({"auths": {"https://registry.example": {"username": "ci", "password": "let me in"}}}, CI),
        ({"auths": {"registry.example": {"auth": basic(), "identitytoken": "abc"}}}, Login(refresh_token="abc")),
        ({"auths": {"registry.example": {"auth": base64.b64encode(b"ci:a:b").decode()}}}, Login("ci", "a:b")),
    ],
)
def test_dockers_configuration(docker, config, login):
    docker(config)
    assert login_for("registry.example") == login


def test_docker_hub_has_a_name_of_its_own(docker):
    docker({"auths": {"https://index.docker.io/v1/": {"auth": basic()}}})
    assert login_for("docker.io") == CI


@pytest.mark.parametrize("config", [{"credsStore": "safe"}, {"credHelpers": {"registry.example": "safe"}}])
def test_a_credential_helper_is_asked(docker, helper, config):
    docker(config)
    helper('{"ServerURL": "registry.example", "Username": "ci", "Secret": "let me in"}')
    assert login_for("registry.example") == CI
    helper('{"Username": "<token>", "Secret": "abc"}')
    assert login_for("registry.example") == Login(refresh_token="abc")
    assert login_for("other.example") is None


def test_a_credential_helper_that_is_not_installed_is_told(docker):
    docker({"credsStore": "missing"})
    with pytest.raises(
        DeliveryError, match=r"docker-credential-missing: .*; install it, or set REFLUX_REGISTRY_USERNAME"
    ):
        login_for("registry.example")


@pytest.mark.parametrize("content", ["{", "[]", '{"auths": {"registry.example": {"auth": "?"}}}'])
def test_a_configuration_that_is_none_is_told(docker, content):
    docker(content)
    with pytest.raises(DeliveryError, match=r"docker/config.json: no configuration of Docker's .*docker login"):
        login_for("registry.example")


def test_the_environment_comes_first_and_is_whole(docker, tmp_path, monkeypatch):
    docker({"auths": {"registry.example": {"auth": basic()}}})
    monkeypatch.setenv("REFLUX_REGISTRY_USERNAME", "robot")
    with pytest.raises(DeliveryError, match="REFLUX_REGISTRY_PASSWORD_FILE is not set: set both, or neither"):
        login_for("registry.example")
    monkeypatch.setenv("REFLUX_REGISTRY_PASSWORD_FILE", str(tmp_path / "password"))
    with pytest.raises(DeliveryError, match=r"No such file.*name a file that holds the password alone"):
        login_for("registry.example")
    (tmp_path / "password").write_text("let me in\n")
    assert login_for("registry.example") == Login("robot", "let me in")
    assert "let me in" not in repr(login_for("registry.example"))
