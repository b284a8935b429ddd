"""The settings of shadowing, nested in the service's as `shadow` (environment `REFLUX_SHADOW__<FIELD>`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator


class ShadowSettings(BaseModel):
    """How much traffic is shadowed, by which teacher, at what cost, and where the comparisons are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    enabled: bool = False
    """Send a sample of the answered texts to the teacher. Without it, requests per band are counted, no more."""

    teacher: dict[str, Any] | None = Field(default=None, repr=False)
    """The teacher, as in a task file: `{"kind": "bundle", "path": "..."}`. Needed when `enabled`."""

    rate: float = Field(default=0.02, gt=0.0, le=1.0)
    """Wanted share of all requests; uncertain answers are sampled more often, confident ones less."""

    path: Path = Path("shadow.sqlite")
    """The SQLite outbox, on a local disk that outlives the process. One process per file."""

    max_bytes: int = Field(default=2 * 2**30, ge=2**20)
    """Size the outbox may grow to. Beyond it new rows are dropped and counted as `store_error`."""

    queue_rows: int = Field(default=2048, ge=1)
    """Sampled texts that may wait in memory to be written. Beyond it the newest is dropped as `queue_full`."""

    queue_bytes: int = Field(default=32 * 2**20, ge=1)
    """Memory those texts may take. Beyond it the newest is dropped as `queue_full`."""

    backlog_rows: int = Field(default=10_000, ge=1)
    """Sampled texts that may wait for the teacher in all, most of them on disk. Beyond it: `queue_full`."""

    flush_seconds: float = Field(default=0.25, gt=0.0)
    """Longest time a sampled text waits in memory, and the pause before a failed write is tried again."""

    concurrency: int = Field(default=2, ge=1, le=256)
    """Texts the teacher is asked at once, at most: a teacher in this process takes one at a time."""

    deadline_seconds: float = Field(default=20.0, gt=0.0)
    """Time the teacher has for one text, both attempts together. Beyond it the outcome is `timeout`."""

    retry_seconds: float = Field(default=0.5, ge=0.0)
    """Longest pause before the second and last attempt after an error that may pass; the pause is random."""

    usd_per_hour: float | None = Field(default=None, gt=0.0)
    """Money the teacher may cost in any one hour. Beyond it texts are not asked: `budget`. None: no limit."""

    phone_countries: tuple[str, ...] = ()
    """Countries, such as `["DE", "US"]`, whose telephone numbers are redacted also without the prefix of a country."""

    store_text: bool = True
    """Keep the redacted text with the answer, to train on. If not, it is erased as soon as there is an outcome."""

    split_key: SecretStr = SecretStr("reflux")
    """Key of the hash that keeps a tenth of the texts for evaluation; the same on all pods."""

    stop_seconds: float = Field(default=5.0, gt=0.0)
    """Time that stopping may take: waiting rows are written, running calls to the teacher may still end."""

    @field_validator("phone_countries")
    @classmethod
    def _are_countries(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            return given
        from phonenumbers import SUPPORTED_REGIONS  # not at every start

        countries = tuple(country.strip().upper() for country in given)
        if wrong := [country for country in countries if country not in SUPPORTED_REGIONS]:
            raise ValueError(
                f"{', '.join(wrong)}: no country; give codes of two letters by ISO 3166, such as DE, GB or US"
            )
        return countries
