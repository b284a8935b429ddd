"""Addresses of bundles. In a registry: `oci://registry.example/team/tickets`, with a tag, a digest or both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from export.delivery.errors import DeliveryError

SCHEME = "oci://"
PLAIN_SCHEME = "oci+http://"

_WORD = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_ADDRESS = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?)"
    rf"/(?P<repository>{_WORD}(?:/{_WORD})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|\[?::1\]?")


@dataclass(frozen=True, slots=True)
class Address:
    """A repository of a registry (`host` with its port), a `tag` or `digest` in it; `plain` is HTTP without TLS."""

    host: str
    repository: str
    tag: str | None
    digest: str | None
    plain: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address. Without TLS go `oci+http://` and, as other clients have it, registries of this machine.

        Raises DeliveryError.
        """
        plain = text.startswith(PLAIN_SCHEME)
        found = _ADDRESS.fullmatch(text.removeprefix(PLAIN_SCHEME if plain else SCHEME))
        if found is None:
            raise DeliveryError(
                f"{text}: no address in a registry; write {SCHEME}HOST[:PORT]/REPOSITORY[:TAG][@sha256:…], the "
                "repository in lower case"
            )
        host = found["host"]
        here = is_loopback(re.sub(r":[0-9]+$", "", host))
        return cls(host, found["repository"], found["tag"], found["digest"], plain or here)

    @property
    def url(self) -> str:
        """The root of the registry's API for this repository. Docker Hub answers at another host than its name."""
        host = "registry-1.docker.io" if self.host == "docker.io" else self.host
        return f"http{'' if self.plain else 's'}://{host}/v2/{self.repository}"

    @property
    def name(self) -> str:
        """The repository with its host, as container tools write it."""
        return f"{self.host}/{self.repository}"


def require_place(text: str) -> str:
    """Return `text` if a bundle may be there: in a registry, a folder or an object store. Raises DeliveryError.

    What only a library knows, such as the name of a bucket, is not checked.
    """
    scheme, separated, rest = text.partition("://")
    if not text.strip():
        raise DeliveryError("the address is empty; give oci://REGISTRY/REPOSITORY, a folder, s3://… or gs://…")
    if text.startswith((SCHEME, PLAIN_SCHEME)):
        Address.parse(text)
    elif separated and scheme == "file":
        raise DeliveryError(f"{text}: give a folder by its path alone, {rest}")
    return text


def is_loopback(host: str) -> bool:
    """Whether a host, without its port, is this machine."""
    return _LOOPBACK.fullmatch(host) is not None


def require_digest(text: str) -> str:
    """Return `text` if it is a digest. Raises DeliveryError."""
    if _DIGEST.fullmatch(text) is None:
        raise DeliveryError(f"{text}: no digest; give `sha256:` and 64 hexadecimal digits, as `reflux push` prints it")
    return text
