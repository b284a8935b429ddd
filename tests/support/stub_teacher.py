"""What every teacher has; a test says what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel

from distill.teachers.base import Answer


class StubTeacher:
    """A teacher that is handed over, never made from a configuration. `closed` is whether it was closed."""

    config_type: ClassVar[type[BaseModel]] = BaseModel
    name: str = "stub"
    version: str = "1"
    labels: tuple[str, ...] = ("a", "b")
    batch_size: int = 1
    concurrency: int = 1
    closed: bool = False

    @classmethod
    def from_config(cls, config: Any, labels: Sequence[str], account: Any = None) -> Self:
        raise AssertionError("a stub is handed over, never configured")

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closed = True
