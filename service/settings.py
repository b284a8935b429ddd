"""Every setting of the service, read from the environment: `REFLUX_PORT`, `REFLUX_SHADOW__ENABLED`.

The docstring under a field is its reference documentation. An invalid setting stops the start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from export.bundle.providers import Kind
from service.errors import StartupError
from service.shadow.settings import DeferSettings, ShadowSettings

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
"""Bounds of the buckets of all histograms of durations."""

PREFIX = "REFLUX_"
NESTED = "__"
CLIENT = frozenset({"api_key"})
"""Variables that `reflux_client` reads, which may be set in the same environment."""


class Settings(BaseSettings):
    """The settings of one process. Sizes are in bytes, durations in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=NESTED, frozen=True, hide_input_in_errors=True
    )

    bundle: Path
    """Directory of the bundle to serve."""

    candidate: Path | None = None
    """Directory of a second bundle, with the same labels, to serve beside the first."""

    candidate_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the requests that the candidate answers; a request may choose either by `X-Reflux-Variant`."""

    host: str = "0.0.0.0"
    """Address to listen on."""

    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and logs it."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of events to log."""

    access_log: bool = False
    """Log one line per request. The metrics count every request either way."""

    console: bool = True
    """Serve the web page at `/`."""

    protocols: bool = True
    """Also serve other servers' protocols: Hugging Face, TEI, KServe, Open Inference, infinity, vLLM, clouds."""

    workers: int | None = Field(default=None, ge=0, le=256)
    """Inference threads; 0 runs the graph on the event loop. By default measured at start, like the next two."""

    threads: int | None = Field(default=None, ge=1, le=256)
    """Threads within one run of the graph."""

    batch_tokens: int | None = Field(default=None, ge=0)
    """Maximum number of tokens, with padding, in one run of the graph; 0 runs every text alone."""

    device: Kind = "auto"
    """Where the graph runs: `cpu`, `cuda`, `tensorrt`; `auto` is CUDA where reflux[gpu] finds a GPU, else the CPU."""

    device_id: int = Field(default=0, ge=0)
    """Index of the GPU, among those that this process sees."""

    tensorrt_cache: Path | None = None
    """Directory where TensorRT keeps its engines; without one it rebuilds them at each start, for minutes."""

    tensorrt_fp16: bool = False
    """Let TensorRT compute in 16 bits; the bundle's golden texts check the result."""

    queue_limit: int = Field(default=256, ge=1)
    """Maximum number of texts that wait for inference; beyond it a request gets 429. At least `max_texts`."""

    timeout_seconds: float | None = Field(default=None, gt=0)
    """Time limit of a request; one that cannot meet it gets 429 at once. Clients may set a shorter one."""

    availability_objective: float = Field(default=0.999, gt=0, lt=1)
    """Share of the requests that should be answered; alerts are computed from it."""

    latency_objective: float = Field(default=0.99, gt=0, lt=1)
    """Share of the requests that should be answered within `latency_seconds`; alerts are computed from it."""

    latency_seconds: float = 0.1
    """See `latency_objective`; one of the buckets of `reflux_answer_seconds`."""

    stall_seconds: float = Field(default=60.0, gt=0)
    """A run of the graph that takes longer makes `/livez` fail, so that the process is replaced."""

    max_body_bytes: int = Field(default=1024 * 1024, ge=1)
    """Maximum size of a request body; a larger one gets 413."""

    receive_seconds: float = Field(default=30.0, gt=0)
    """Time limit from a request's first byte to its last; a slower one gets 408. Clients have as long to read an
    answer."""

    max_unfinished_bytes: int | None = Field(default=None, ge=1)
    """Maximum memory for all incomplete requests; beyond it they get 503. By default 64 times `max_body_bytes`."""

    max_connections: int = Field(default=4096, ge=1)
    """Maximum number of connections. A further one replaces an idle or slow one, or gets 503 if there is none."""

    max_texts: int = Field(default=64, ge=1)
    """Maximum number of texts in one request."""

    max_characters: int = Field(default=100_000, ge=1)
    """Maximum length of a text. The model reads at most the bundle's `max_tokens`; then the answer says `truncated`."""

    api_keys: Path | None = None
    """File of the API keys, see `auth.keyfile`; requests without a key get 401. Unset: no request needs a key."""

    metrics_open: bool = True
    """Serve `/metrics` on `port` without a key, even if `api_keys` is set."""

    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """A separate port for `/metrics` and the probes, without keys; `port` then has no `/metrics`. 0: a free one."""

    cors_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^\s/*]+)$")], ...] = ()
    """Origins whose web pages may send requests, such as `["https://desk.example"]`, or `["*"]`."""

    tracing: bool = False
    """Send OpenTelemetry spans as the `OTEL_...` variables say; needs the extra `otel`."""

    admin: bool = False
    """Serve `POST /admin/reload` to keys with the option `admin`; needs `api_keys`. SIGHUP always reloads."""

    keep_alive_seconds: int = Field(default=75, ge=1)
    """How long an idle connection stays open; set it longer than the idle timeout of the proxy in front."""

    drain_seconds: float = Field(default=5.0, ge=0)
    """How long after SIGTERM connections are still accepted, while `/readyz` fails and load balancers react."""

    idle_grace_seconds: float = Field(default=2.0, ge=0)
    """After that, how long an idle connection may still send a request, which is answered before it is closed."""

    shutdown_seconds: float = Field(default=20.0, gt=0)
    """After that, how long requests in flight may take before they are aborted."""

    shadow: ShadowSettings = Field(default_factory=ShadowSettings)
    """Shadowing: sends a sample of the traffic to the teacher, to measure the live gap."""

    defer: DeferSettings = Field(default_factory=DeferSettings)
    """Deferring: a cascade that leaves texts to the teacher asks it within the request."""

    @field_validator("latency_seconds")
    @classmethod
    def _bucket(cls, seconds: float) -> float:
        """Refuse a time that the histogram of answers does not tell apart."""
        if seconds not in SECONDS:
            raise PydanticCustomError("bucket", f"must be one of {', '.join(f'{bound:g}' for bound in SECONDS)}")
        return seconds

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Refuse settings that contradict each other."""
        if self.queue_limit < self.max_texts:
            raise PydanticCustomError(
                "queue_limit",
                f"{variable('queue_limit')} is {self.queue_limit}, less than the {self.max_texts} of "
                f"{variable('max_texts')}: the largest request could never be admitted",
            )
        if self.admin and self.api_keys is None:
            raise PydanticCustomError(
                "admin",
                f"{variable('admin')} without {variable('api_keys')} would let everyone reload; set "
                f"{variable('api_keys')} to a file with a key of the option `admin` (`reflux keys new NAME --admin`), "
                "or leave it off and reload by SIGHUP",
            )
        if self.max_unfinished_bytes is not None and self.max_unfinished_bytes < 2 * self.max_body_bytes:
            raise PydanticCustomError(
                "max_unfinished_bytes",
                f"{variable('max_unfinished_bytes')} is {self.max_unfinished_bytes}, less than twice the "
                f"{self.max_body_bytes} of {variable('max_body_bytes')}: the largest request could never be received",
            )
        if self.metrics_port and self.metrics_port == self.port:
            raise PydanticCustomError(
                "metrics_port", f"{variable('metrics_port')} and {variable('port')} are both {self.port}; change one"
            )
        return self


def variable(*location: int | str) -> str:
    """Return the environment variable of a setting: `REFLUX_SHADOW__RATE` for `("shadow", "rate")`."""
    return PREFIX + NESTED.join(str(part) for part in location).upper()


class _ShadowAlone(BaseSettings):
    """The settings of shadowing, for what needs no bundle."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=NESTED, frozen=True, hide_input_in_errors=True
    )

    shadow: ShadowSettings = Field(default_factory=ShadowSettings)


def load_settings(**given: Any) -> Settings:
    """Read the settings from the environment; those `given`, such as on a command line, take precedence.

    Raises StartupError naming each invalid variable.
    """
    known = set(Settings.model_fields)
    names = (name for name in sorted(os.environ) if name.upper().startswith(PREFIX))
    unknown = [name for name in names if name[len(PREFIX) :].lower().split(NESTED)[0] not in known | CLIENT]
    if unknown:
        raise StartupError(
            f"{', '.join(unknown)}: no such setting; known are {', '.join(variable(name) for name in sorted(known))} "
            f"(if Kubernetes set it, set `enableServiceLinks: false`)"
        )
    with _named_errors():
        return Settings(**given)


def load_shadow_settings() -> ShadowSettings:
    """Read the settings of shadowing alone. Raises StartupError naming each invalid variable."""
    with _named_errors():
        return _ShadowAlone().shadow


@contextmanager
def _named_errors() -> Iterator[None]:
    """Raise StartupError, with the names of the variables, for settings that cannot be read."""
    try:
        yield
    except ValidationError as error:
        lines = (f"{_name(item['loc'])}{item['msg']}" for item in error.errors(include_url=False))
        raise StartupError("; ".join(lines)) from error
    except SettingsError as error:  # only its message has the name of the field
        name = variable(*re.findall(r'field "(\w+)"', str(error)))
        raise StartupError(
            f"{name}: not JSON; give a list or an object, an object also as {name}{NESTED}..."
        ) from error


def _name(location: tuple[int | str, ...]) -> str:
    return f"{variable(*location)}: " if location else ""
