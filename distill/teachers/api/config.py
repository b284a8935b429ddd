"""Settings of a teacher behind an API: where the server is, the key, prices, limits and terms of use."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, field_validator

from distill.teachers.api.http import MAX_BYTES, PATIENCE
from distill.teachers.api.pricing import Price, known_price
from distill.teachers.api.terms import TermsOfUse, check_permission
from distill.teachers.errors import TeacherError

_KEY_HEADERS = frozenset({"authorization", "api-key", "x-api-key"})
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class BatchConfig(BaseModel):
    """How to use a batch API: seconds between polls, and the most calls in a batch (default: the vendor's limit)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    interval_seconds: float = Field(default=30.0, gt=0)
    calls: int | None = Field(default=None, ge=1)


class ApiConfig(BaseModel):
    """Settings that every teacher behind an API has.

    `permutations` is the number of orders in which labels are listed, in turn. The key is read from the environment
    variable `key_env` or the file `key_file`; it never stands in a task file. `headers` are sent with every call; in
    their values `$NAME` stands for an environment variable, which may hold a key. `extra_body` is added to the body of
    every call. `usd_per_million` may be omitted for models in `prices.yaml`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    vendor_host: ClassVar[str] = ""
    """The host that may get the key in the default variable."""

    base_url: str = Field(repr=False)
    model: str
    permutations: int = Field(default=2, ge=1, le=16)
    key_env: str = Field(repr=False)
    key_file: Path | None = None
    headers: Mapping[str, str] = Field(default={}, repr=False)
    usd_per_million: Price | None = None
    terms: TermsOfUse | None = None
    concurrency: int = Field(default=8, ge=1, le=256)
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    timeout_seconds: float = Field(default=60.0, gt=0)
    attempts: int = Field(default=6, ge=1)
    max_response_bytes: int = Field(default=MAX_BYTES, ge=2**10)
    patience_seconds: float = Field(default=PATIENCE, ge=0)
    extra_body: dict[str, Any] = Field(default={}, repr=False)
    batch: BatchConfig = BatchConfig()

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            url = httpx.URL(value)
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("expected an address such as https://api.example/v1")
        return value

    @field_validator("key_env")
    @classmethod
    def _is_variable(cls, value: str) -> str:
        if not _VARIABLE.fullmatch(value):
            raise ValueError("expected the name of an environment variable; if this is a key, put it into one")
        return value

    @property
    def address(self) -> str:
        """The server's address for messages, without a password or a query, which may hold a key."""
        url = httpx.URL(self.base_url)
        return str(url.copy_with(username=None, password=None, query=None, fragment=None))

    @property
    def max_in_flight(self) -> int:
        """The most calls in flight: `concurrency` at the server, and some whose accounting is being written."""
        return self.concurrency + self.concurrency // 4 + 1

    def answering(self) -> dict[str, Any]:
        """The settings that determine answers, without those for speed, keys and prices."""
        access = {"key_env", "key_file", "headers", "usd_per_million", "terms", "concurrency", "timeout_seconds"}
        limits = {"attempts", "patience_seconds", "max_response_bytes", "requests_per_minute", "tokens_per_minute"}
        return self.model_dump(mode="json", exclude={*access, *limits, "batch"})

    def price(self) -> Price:
        """The price of its calls. Raises TeacherError when it is neither given nor known."""
        return self.usd_per_million or known_price(urlsplit(self.base_url).hostname or "", self.model)

    @property
    def key_source(self) -> Path | str | None:
        """The file or the environment variable that holds the key; None if no key is sent.

        The key in the vendor's default variable goes to no other host unless `key_env` is set explicitly.
        """
        theirs = urlsplit(self.base_url).hostname == self.vendor_host
        variable = self.key_env if theirs or "key_env" in self.model_fields_set else None
        return variable if self.key_file is None else self.key_file

    def key(self) -> str:
        """The key, or an empty string without one. Raises TeacherError for a key that cannot be read."""
        source = self.key_source
        if not isinstance(source, Path):
            return _header_value(os.environ.get(source, ""), "the variable that key_env names") if source else ""
        try:
            return _header_value(source.read_text(encoding="utf-8"), "the file that key_file names")
        except OSError as error:  # the message omits the path, which may be the key itself
            raise TeacherError(
                f"key_file: the file cannot be read ({error.strerror}); give the path of a file that holds the key"
            ) from None
        except ValueError:  # not UTF-8, or no valid path; either message would hold the value
            raise TeacherError("key_file: the file cannot be read (not UTF-8); correct it") from None

    def filled_headers(self) -> dict[str, str]:
        """`headers` with environment variables filled in. Raises TeacherError for a variable that is not set."""
        if bare := [name for name, value in self.headers.items() if name.lower() in _KEY_HEADERS and "$" not in value]:
            raise TeacherError(f"headers: {bare[0]} holds a key; put it in a variable and write the variable's $NAME")
        filled = {}
        for name, value in self.headers.items():
            try:
                filled[name] = _header_value(Template(value).substitute(os.environ), f"the header {name}")
            except KeyError:  # its message holds what follows the $, which may be part of a key
                raise TeacherError(f"headers: {name} names a variable that is not set; set it") from None
            except ValueError:
                raise TeacherError(
                    "headers: a $ is not followed by the name of a variable; write $$ for a dollar"
                ) from None
        return filled

    def check(self, labels: Sequence[str]) -> None:
        """Raise TeacherError unless the terms of use are acknowledged and allow it, and the settings fit the labels."""
        check_permission(self.base_url, self.model, self.terms)
        if self.terms is None and not is_local(self.base_url):
            raise TeacherError(
                f"{self.address} is a service of others, and some forbid training on their answers. Read its "
                "terms, then add `terms: {acknowledged: true, reference: <where they stand>}` to the teacher"
            )


def is_local(base_url: str) -> bool:
    """Whether a server is one's own: on this machine or in a private network."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or host.endswith((".local", ".internal", ".svc")) or "." not in host


def _header_value(secret: str, what: str) -> str:
    """Strip white space. Raises TeacherError, without the secret, for characters that no header may hold."""
    stripped = secret.strip()
    if not (stripped.isascii() and stripped.isprintable()):
        raise TeacherError(f"{what} holds characters that no key has, such as a line break; correct it")
    return stripped
