"""Sections of a task file that several parts share: where rows come from, and how a model is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator


class Section(BaseModel):
    """A part of a task: immutable, strict about unknown keys, and all its numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _with_its_keys(cls, value: Any) -> Any:
        if not isinstance(value, (dict, cls)):
            raise ValueError(f"expected a mapping, with keys among {', '.join(cls.model_fields)}")
        return value


def added(default: Any, **limits: Any) -> Any:
    """Return the field of a key that earlier releases did not have: left out of dumps while it has its default.

    So the fingerprints of stages that were made without it stay as they were.
    """
    return Field(default=default, exclude_if=lambda value: bool(value == default), **limits)


def walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a configuration and, depth first, every value in it, each with the name of the field that it is in."""
    yield key, value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from walk(getattr(value, name), name)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from walk(item, key)


class FileSource(Section):
    """A CSV, JSONL or Parquet file, by its ending. `label` names the column of gold labels, if there is one.

    `delimiter` is the character between the fields of a CSV file, or `tab`; None detects it.
    """

    path: Path
    text: str = "text"
    label: str | None = None
    id: str | None = None
    delimiter: str | None = None

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        character = "\t" if value in ("tab", "\\t") else value
        if character is not None and (len(character) != 1 or character.isalnum() or character in '"\r\n\0'):
            raise ValueError("expected one character other than a letter, digit, quote or line break, or `tab`")
        return character


class TicketSource(Section):
    """`tickets` rows of the built-in support desk, drawn with `seed`."""

    tickets: int = Field(ge=1)
    seed: int = 0


def _source_kind(value: Any) -> str:
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "TicketSource" if "tickets" in given else "FileSource"


Source = Annotated[
    Annotated[FileSource, Tag("FileSource")] | Annotated[TicketSource, Tag("TicketSource")],
    Discriminator(_source_kind),
]


class Views(Section):
    """Altered copies of the training texts: `per_text` of each, in which words are dropped and neighbours swapped.

    `drop` and `swap` are the probabilities of either for a word.
    """

    per_text: int = Field(default=1, ge=1, le=16)
    drop: float = Field(default=0.1, ge=0, lt=1)
    swap: float = Field(default=0.1, ge=0, le=1)
    seed: int = 0

    @model_validator(mode="after")
    def _altering(self) -> Views:
        if self.drop == self.swap == 0:
            raise ValueError("drop and swap are both 0, so that nothing is altered; raise one of them")
        return self


class Paraphrases(Section):
    """Paraphrases of the training texts: the teacher writes `per_text` of each, and labels them as it labels texts."""

    per_text: int = Field(default=1, ge=1, le=16)


Precision = Literal["auto", "float32", "bfloat16"]


class Optimisation(Section):
    """How a model is trained. `patience` counts epochs without a better validation agreement; 0 never stops early.

    `averaging` is the share of all steps over which the weights are averaged; 0 keeps the weights themselves. With
    `layer_decay` each layer learns at that multiple of the rate of the layer above it. `precision` is that of matrix
    products; `auto` takes bfloat16 on CPUs that are faster with it.
    """

    epochs: int = Field(default=8, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    patience: int = Field(default=0, ge=0)
    averaging: float = added(0.0, ge=0, le=1)
    layer_decay: float = added(1.0, gt=0, le=1)
    seed: int = 0
    precision: Precision = "auto"
