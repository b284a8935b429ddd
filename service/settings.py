"""Every setting of the service, read from the environment: `REFLUX_PORT`, `REFLUX_SHADOW__ENABLED`.

The docstring under a field is its reference documentation. A setting that does not fit stops the start.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from export.bundle.providers import Kind
from service.errors import StartupError
from service.shadow.settings import ShadowSettings

PREFIX = "REFLUX_"
NESTED = "__"
CLIENT = frozenset({"api_key"})
"""Variables that are for `reflux_client`, and may stand in the same environment."""


class Settings(BaseSettings):
    """The settings of one process. Sizes are in bytes, times in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=NESTED, frozen=True, hide_input_in_errors=True
    )

    bundle: Path
    """Directory of the bundle to serve."""

    candidate: Path | None = None
    """Directory of a second bundle, with the same labels, to serve beside the first."""

    candidate_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the requests that the candidate answers; a request may ask for either by `X-Reflux-Variant`."""

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

    protocols: bool = True
    """Serve the protocols of other servers too: Hugging Face, TEI, KServe, Open Inference, infinity, vLLM, clouds."""

    workers: int | None = Field(default=None, ge=0, le=256)
    """Inference threads; 0 runs the graph on the event loop. Measured at start by default, as are the next two."""

    threads: int | None = Field(default=None, ge=1, le=256)
    """Threads within one run of the graph."""

    batch_tokens: int | None = Field(default=None, ge=0)
    """Most tokens, padding included, that one run takes of what is waiting; 0 runs every text alone."""

    device: Kind = "auto"
    """Where the graph runs: `cpu`, `cuda`, `tensorrt`; `auto` is CUDA with reflux[gpu], the CPU with reflux[cpu]."""

    device_id: int = Field(default=0, ge=0)
    """Which of the GPUs that this process sees."""

    tensorrt_cache: Path | None = None
    """Directory in which TensorRT keeps its engines; without one it builds them anew, for minutes, at each start."""

    tensorrt_fp16: bool = False
    """Let TensorRT compute in 16 bits; the bundle's golden texts are the test of it."""

    queue_limit: int = Field(default=256, ge=1)
    """Texts that may wait for an inference thread; beyond that a request gets 429. Must admit `max_texts`."""

    timeout_seconds: float | None = Field(default=None, gt=0)
    """Longest that a request may take: one that cannot be answered in time gets 429 at once. Clients may ask less."""

    stall_seconds: float = Field(default=60.0, gt=0)
    """One run that takes longer makes `/livez` fail, so that the process is replaced."""

    max_body_bytes: int = Field(default=1024 * 1024, ge=1)
    """Largest request body; a larger one gets 413."""

    receive_seconds: float = Field(default=30.0, gt=0)
    """Longest that a request may take to come, from its first byte to its last, else it gets 408; answers may wait as
    long to be read."""

    max_unfinished_bytes: int | None = Field(default=None, ge=1)
    """Most bytes to hold of all requests that have not come whole; more get 503. By default 64 of the largest."""

    max_connections: int = Field(default=4096, ge=1)
    """Most connections; for another, one that is idle or slow is closed, and where none is it gets 503."""

    max_texts: int = Field(default=64, ge=1)
    """Most texts in one request."""

    max_characters: int = Field(default=100_000, ge=1)
    """Longest text. The graph reads no further than the bundle's `max_tokens`; the answer says `truncated` then."""

    api_keys: Path | None = None
    """File of the API keys, see `auth.keyfile`; whoever asks without one gets 401. Without the file all may ask."""

    metrics_open: bool = True
    """Serve `/metrics` on `port` to all, also where there are API keys."""

    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Another port, for `/metrics` and the probes, open to all; `port` then has no `/metrics`. 0 takes a free one."""

    cors_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^\s/*]+)$")], ...] = ()
    """Origins whose web pages may ask, such as `["https://desk.example"]`, or `["*"]`; none by default."""

    tracing: bool = False
    """Send OpenTelemetry spans where the `OTEL_...` variables say; needs the extra `otel`."""

    admin: bool = False
    """Serve `POST /admin/reload`, to keys with the option `admin`; needs `api_keys`. SIGHUP reloads either way."""

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

    @model_validator(mode="after")
    def _admins_have_keys(self) -> Self:
        if self.admin and self.api_keys is None:
            raise PydanticCustomError(
                "admin",
                f"{variable('admin')} without {variable('api_keys')} would let whoever asks reload; set "
                f"{variable('api_keys')} to a file with a key of the option `admin` (`reflux keys new NAME --admin`), "
                "or leave it off and reload by SIGHUP",
            )
        return self

    @model_validator(mode="after")
    def _a_body_may_come_in_pieces(self) -> Self:
        if self.max_unfinished_bytes is not None and self.max_unfinished_bytes < 2 * self.max_body_bytes:
            raise PydanticCustomError(
                "max_unfinished_bytes",
                f"{variable('max_unfinished_bytes')} is {self.max_unfinished_bytes}, less than twice the "
                f"{self.max_body_bytes} of {variable('max_body_bytes')}: the largest request could never come",
            )
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.metrics_port and self.metrics_port == self.port:
            raise PydanticCustomError(
                "metrics_port", f"{variable('metrics_port')} and {variable('port')} are both {self.port}; change one"
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
    unknown = [name for name in names if name[len(PREFIX) :].lower().split(NESTED)[0] not in known | CLIENT]
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
        raise StartupError(
            f"{name}: not JSON; give a list or an object, an object also as {name}{NESTED}..."
        ) from error


def _name(location: tuple[int | str, ...]) -> str:
    return f"{variable(*location)}: " if location else ""
