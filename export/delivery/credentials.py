"""The login for a registry: from the environment, else from Docker's configuration, where `docker login` puts it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.delivery.errors import DeliveryError

USERNAME = "REFLUX_REGISTRY_USERNAME"
PASSWORD_FILE = "REFLUX_REGISTRY_PASSWORD_FILE"

_HUB = "https://index.docker.io/v1/"
_HELPER_SECONDS = 30.0
_TOKEN_USER = "<token>"
"""The user name by which a credential helper says that its secret is a refresh token."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user's name and password, or a `refresh_token` that the registry's token server exchanges."""

    username: str = ""
    password: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The header of HTTP's basic authentication."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def login_for(host: str) -> Login | None:
    """Return the login for a registry, or None if there is none. Raises DeliveryError if it cannot be read."""
    return _from_environment() or _from_docker(host)


def _from_environment() -> Login | None:
    username, file = os.environ.get(USERNAME, ""), os.environ.get(PASSWORD_FILE, "")
    if not username and not file:
        return None
    if not username or not file:
        raise DeliveryError(f"{USERNAME if file else PASSWORD_FILE} is not set: set both, or neither")
    try:
        return Login(username, Path(file).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DeliveryError(f"{PASSWORD_FILE}={file}: {error}; name a file that holds the password alone") from error


def _from_docker(host: str) -> Login | None:
    # expanduser, unlike Path.home, does not fail for a user of no name, as containers may have one.
    path = Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")) / "config.json"
    try:
        config = json.loads(path.read_bytes())
        server = _HUB if host == "docker.io" else host
        if helper := config.get("credHelpers", {}).get(server) or config.get("credsStore"):
            return _from_helper(str(helper), server)
        known = config.get("auths", {})
        entry = known.get(server) or known.get(f"https://{host}") or known.get(f"https://{host}/")
        return _from_entry(entry) if entry else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise DeliveryError(
            f"{path}: no configuration of Docker's ({error}); run `docker login {host}` anew"
        ) from error


def _from_entry(entry: dict[str, Any]) -> Login | None:
    if token := entry.get("identitytoken"):
        return Login(refresh_token=str(token))
    if entry.get("username"):
        return Login(str(entry["username"]), str(entry.get("password", "")))
    if not entry.get("auth"):
        return None
    username, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    return Login(username, password.rstrip("\0"))


def _from_helper(helper: str, server: str) -> Login | None:
    """Ask a credential helper, a program that keeps logins outside the file. None where it has none."""
    program = f"docker-credential-{helper}"
    try:
        answer = subprocess.run(
            [program, "get"], input=server, capture_output=True, text=True, timeout=_HELPER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeliveryError(f"{program}: {error}; install it, or set {USERNAME} and {PASSWORD_FILE}") from error
    if answer.returncode != 0:
        return None
    found = json.loads(answer.stdout)
    if found["Username"] == _TOKEN_USER:
        return Login(refresh_token=found["Secret"])
    return Login(found["Username"], found["Secret"])
