"""What calls cost: usage in tokens, prices in dollars per million, and the file of known prices.

An unknown price is an error, never a guess; `prices.yaml` says when and where each price was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from distill.teachers.errors import TeacherError


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a call, each counted once; vendors' own counts overlap and are converted.

    `input` was read without a cache, `cached` from the server's cache, `cache_write` written to it, `output` generated.
    """

    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """All tokens."""
        return self.input + self.cached + self.cache_write + self.output


class Price(BaseModel):
    """Dollars per million tokens. `cached` and `cache_write` default to `input`.

    `batch` is the share of the price that the batch API charges.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)
    cache_write: float | None = Field(default=None, ge=0)
    batch: float = Field(default=0.5, ge=0, le=1)

    def cost(self, usage: Usage) -> float:
        """The cost of a call in dollars."""
        cached = self.input if self.cached is None else self.cached
        written = self.input if self.cache_write is None else self.cache_write
        total = usage.input * self.input + usage.cached * cached + usage.cache_write * written
        return (total + usage.output * self.output) / 1e6

    def max_cost(self, prompt_tokens: int, output_tokens: int) -> float:
        """The most that a call can cost in dollars, whatever the server's cache does."""
        read = max(self.input, self.cached or 0.0, self.cache_write or 0.0)
        return (prompt_tokens * read + output_tokens * self.output) / 1e6


def known_price(host: str, model: str) -> Price:
    """The price of a vendor's model, by the host that serves it. Raises TeacherError for an unknown one.

    A dated model (`gpt-4.1-mini-2025-04-14`) has the price of the model without the date.
    """
    models: Mapping[str, Any] = _prices().get(host, {}).get("models", {})
    names = [name for name in models if model == name or _dated(model, name)]
    if not names:
        raise TeacherError(
            f"no price is known for {model} at {host}: give the teacher "
            "`usd_per_million: {input: ..., output: ...}`, 0 for a server of your own"
        )
    return Price.model_validate(models[max(names, key=len)])


def list_price(model: str) -> Price | None:
    """The list price of a model, whichever host of the file serves it; None for an unknown one.

    What a gateway writes before the name (`openai/gpt-4.1-mini`) is ignored.
    """
    name = model.rpartition("/")[2]
    for host in _prices():
        try:
            return known_price(host, name)
        except TeacherError:
            continue
    return None


def _dated(model: str, name: str) -> bool:
    """Whether a model's name is `name` followed by a date."""
    rest = model.removeprefix(name)
    return rest != model and rest[0] == "-" and rest.replace("-", "").isdigit() and len(rest) >= 9


@cache
def _prices() -> dict[str, Any]:
    loaded = yaml.safe_load((files("distill.teachers.api") / "prices.yaml").read_text(encoding="utf-8"))
    return dict(loaded)
