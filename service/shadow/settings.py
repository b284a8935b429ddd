"""The settings of shadowing and of deferring, nested in the service's as `shadow` and `defer`.

Their environment variables are `REFLUX_SHADOW__<FIELD>` and `REFLUX_DEFER__<FIELD>`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError


class DeferSettings(BaseModel):
    """How the teacher is asked for an answer, where a cascade defers texts to it. Each process counts by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    teacher: dict[str, Any] | None = Field(default=None, repr=False)
    """The teacher, as in a task file. None: that of `shadow.teacher`."""

    deadline_seconds: float = Field(default=2.0, gt=0.0)
    """How long a text waits for the teacher's answer, in all; then the last student's is given. A request's own
    deadline may end it earlier."""

    concurrency: int = Field(default=8, ge=1, le=256)
    """Maximum number of concurrent calls to the teacher; other texts wait within `deadline_seconds`."""

    retry_seconds: float = Field(default=0.1, ge=0.0)
    """Maximum of the random pause before the second and last attempt, after a retryable error."""

    usd_per_day: float | None = Field(default=None, gt=0.0)
    """Maximum cost of the teacher in any day. Beyond it the last student answers. None: no limit."""


class ShadowSettings(BaseModel):
    """How much traffic is shadowed, by which teacher, at what cost, and where the comparisons are stored."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    enabled: bool = False
    """Send a sample of the answered texts to the teacher. If off, only the requests per band are counted."""

    teacher: dict[str, Any] | None = Field(default=None, repr=False)
    """The teacher, as in a task file: `{"kind": "bundle", "path": "..."}`. Required if `enabled`."""

    rate: float = Field(default=0.02, gt=0.0, le=1.0)
    """Share of all requests to sample; uncertain answers are sampled more often than confident ones."""

    witness: Path | None = None
    """The bundle of a witness, made by `reflux witness`: a better student that reads every answered text, so that the
    teacher need see fewer. None: no witness."""

    witness_share: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the answered texts that the witness reads; only they are sampled for the teacher. It saves CPU time."""

    gap_slo: float | None = Field(default=None, gt=0.0, lt=1.0)
    """The gap that the student must stay below. None: what the bundle says, a point above its offline gap's bound."""

    path: Path = Path("shadow.sqlite")
    """The SQLite outbox, on a local disk that outlives the process. One process per file."""

    max_bytes: int = Field(default=2 * 2**30, ge=2**20)
    """Maximum size of the outbox. Beyond it new rows are dropped and counted as `store_error`."""

    database: SecretStr | None = None
    """A PostgreSQL URL, `postgresql://user@host:5432/name`: many processes share it, in place of `path`."""

    database_password_file: Path | None = None
    """A file that holds the password of the database alone; it is read again at each connection."""

    ask: bool = True
    """Ask the teacher. If off, `reflux worker` asks instead, and this process needs no teacher; needs `database`."""

    lease_seconds: float = Field(default=60.0, gt=0.0)
    """How long a row of the database is kept from others by a process that asks about it, and may have died."""

    queue_rows: int = Field(default=2048, ge=1)
    """Maximum number of sampled texts waiting in memory. Beyond it new ones are dropped as `queue_full`."""

    queue_bytes: int = Field(default=32 * 2**20, ge=1)
    """Maximum memory of those texts. Beyond it new ones are dropped as `queue_full`."""

    backlog_rows: int = Field(default=10_000, ge=1)
    """Maximum number of sampled texts waiting for the teacher, mostly on disk. Beyond it: `queue_full`."""

    flush_seconds: float = Field(default=0.25, gt=0.0)
    """Longest time that a sampled text waits in memory, and the pause before a failed write is retried."""

    concurrency: int = Field(default=2, ge=1, le=256)
    """Maximum number of concurrent calls to the teacher; a teacher in this process takes one at a time."""

    deadline_seconds: float = Field(default=20.0, gt=0.0)
    """Time limit for one text, both attempts together; the teacher's own `attempts` and `patience_seconds` do not
    count. Beyond it the outcome is `timeout`."""

    retry_seconds: float = Field(default=0.5, ge=0.0)
    """Maximum of the random pause before the second and last attempt, after a retryable error."""

    usd_per_hour: float | None = Field(default=None, gt=0.0)
    """Maximum cost of the teacher in any hour. Beyond it the outcome is `budget`. None: no limit."""

    anchors_per_day: int | None = Field(default=None, ge=0)
    """Anchors of the bundle to ask about per day: they show whether the teacher changes. None: each once; 0: none."""

    repeat_rate: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of the teacher's answers that are asked for twice, to measure its own noise. 0 for constant teachers."""

    phone_countries: tuple[str, ...] = ()
    """Countries, such as `["DE", "US"]`, whose phone numbers are redacted even without a country prefix."""

    store_text: bool = True
    """Keep the redacted text with the answer, for training. If off, it is erased as soon as there is an outcome."""

    retention_days: float | None = Field(default=None, gt=0.0)
    """Delete rows this many days after their answer; all counts stay. None: keep them, for training."""

    split_key: SecretStr = SecretStr("reflux")
    """Key of the hash that keeps a tenth of the texts for evaluation; use the same on all pods."""

    stop_seconds: float = Field(default=5.0, gt=0.0)
    """Time limit for stopping: queued rows are written, and running calls to the teacher may still end."""

    @field_validator("database")
    @classmethod
    def _is_postgresql(cls, given: SecretStr | None) -> SecretStr | None:
        """Refuse what is no URL of a PostgreSQL database, without repeating it: it may hold a password."""
        if given is None:
            return None
        try:
            parts = urlsplit(given.get_secret_value())
            _ = parts.port
            fits = parts.scheme in ("postgresql", "postgres") and len(parts.path) > 1
        except ValueError:
            fits = False
        if not fits:
            raise PydanticCustomError(
                "database",
                "must be postgresql://user@host:5432/name, with special characters of a password as %XX",
            )
        return given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse settings that contradict each other."""
        if self.enabled and not self.ask and self.database is None:
            raise PydanticCustomError(
                "ask",
                "shadow.ask is off, and without shadow.database no other process can ask the teacher; set either",
            )
        if self.database is not None and self.lease_seconds <= 2 * self.deadline_seconds:
            raise PydanticCustomError(
                "lease_seconds",
                "shadow.lease_seconds must be more than twice shadow.deadline_seconds, or two processes could pay for "
                "the same row",
            )
        return self

    @field_validator("phone_countries")
    @classmethod
    def _are_countries(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            return given
        from phonenumbers import SUPPORTED_REGIONS  # slow to import, and rarely needed

        countries = tuple(country.strip().upper() for country in given)
        if wrong := [country for country in countries if country not in SUPPORTED_REGIONS]:
            raise ValueError(f"{', '.join(wrong)}: no country; give two-letter codes by ISO 3166, such as DE, GB or US")
        return countries
