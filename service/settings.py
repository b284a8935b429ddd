"""Every setting of the service, read from the environment: `REFLUX_PORT`, `REFLUX_SHADOW__ENABLED`.

The docstring under a field is its reference documentation. A setting that does not fit stops the start.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from service.errors import StartupError
from service.shadow.settings import ShadowSettings

PREFIX = "REFLUX_"
NESTED = "__"


class Settings(BaseSettings):
    """The settings of one process. Sizes are in bytes, times in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=NESTED, frozen=True, use_attribute_docstrings=True
    )

    bundle: Path
    """Directory of the bundle to serve."""

    host: str = "0.0.0.0"
    """Address to listen on."""

    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, which the log names."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe events to log."""

    access_log: bool = False
    """Log one line per request. The metrics count every request either way."""

    console: bool = True
    """Serve the web page at `/`."""

    workers: int | None = Field(default=None, ge=1, le=256)
    """Inference threads, each running one text at a time; by default one per CPU that this process may use."""

    threads: int = Field(default=1, ge=1, le=256)
    """Threads within one run of the graph. More than 1 is for large students on idle CPUs; lower `workers` then."""

    queue_limit: int = Field(default=256, ge=1)
    """Texts that may wait for an inference thread; beyond that a request gets 429. Must admit `max_texts`."""

    stall_seconds: float = Field(default=60.0, gt=0)
    """One text that takes longer makes `/livez` fail, so that the process is replaced."""

    max_body_bytes: int = Field(default=1024 * 1024, ge=1)
    """Largest request body; a larger one gets 413."""

    max_texts: int = Field(default=64, ge=1)
    """Most texts in one request."""

    max_characters: int = Field(default=100_000, ge=1)
    """Longest text. The graph reads no further than the bundle's `max_tokens`; the answer says `truncated` then."""

    keep_alive_seconds: int = Field(default=75, ge=1)
    """How long an idle connection stays open; longer than the idle timeout of the proxy in front."""

    drain_seconds: float = Field(default=5.0, ge=0)
    """After SIGTERM, how long to go on accepting connections while `/readyz` fails and load balancers look away."""

    idle_grace_seconds: float = Field(default=2.0, ge=0)
    """After that, how long an idle connection may still send a request; it is answered, then closed."""

    shutdown_seconds: float = Field(default=20.0, gt=0)
    """After that, how long requests in flight may take before they are cut."""

    shadow: ShadowSettings = Field(default_factory=ShadowSettings)
    """Sends a sample of the traffic to the teacher, to measure the live gap."""

    @model_validator(mode="after")
    def _queue_admits_a_request(self) -> Self:
        if self.queue_limit < self.max_texts:
            raise PydanticCustomError(
                "queue_limit",
                f"{variable('queue_limit')} is {self.queue_limit}, less than the {self.max_texts} of "
                f"{variable('max_texts')}: the largest request could never be admitted",
            )
        return self


def variable(*location: int | str) -> str:
    """Name the environment variable of a setting: for `("shadow", "rate")` it is `REFLUX_SHADOW__RATE`."""
    return PREFIX + NESTED.join(str(part) for part in location).upper()


def load_settings(**given: Any) -> Settings:
    """Read the settings from the environment; those that are `given`, say on a command line, come before it.

    Raises StartupError naming each variable that does not fit.
    """
    known = set(Settings.model_fields)
    names = (name for name in sorted(os.environ) if name.upper().startswith(PREFIX))
    unknown = [name for name in names if name[len(PREFIX) :].lower().split(NESTED)[0] not in known]
    if unknown:
        raise StartupError(
            f"{', '.join(unknown)}: no such setting; known are {', '.join(variable(name) for name in sorted(known))} "
            f"(if Kubernetes set it, set `enableServiceLinks: false`)"
        )
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = (f"{_name(item['loc'])}{item['msg']}" for item in error.errors(include_url=False))
        raise StartupError("; ".join(lines)) from error
    except SettingsError as error:  # it carries the name of the field in its message alone
        name = variable(*re.findall(r'field "(\w+)"', str(error)))
        raise StartupError(f"{name}: not JSON; give an object, or one variable per key: {name}{NESTED}...") from error


def _name(location: tuple[int | str, ...]) -> str:
    return f"{variable(*location)}: " if location else ""
