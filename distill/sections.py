"""Sections of a task file that several parts share: where rows come from, and how a model is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator


class Section(BaseModel):
    """A part of a task: immutable, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


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


Precision = Literal["auto", "float32", "bfloat16"]


class Optimisation(Section):
    """How a model is trained. `patience` counts epochs without a better validation agreement; 0 never stops early.

    `precision` is that of matrix products; `auto` takes bfloat16 on CPUs that are faster with it.
    """

    epochs: int = Field(default=8, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    patience: int = Field(default=0, ge=0)
    seed: int = 0
    precision: Precision = "auto"
