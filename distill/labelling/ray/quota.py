"""Each worker's share of what a teacher's settings allow: they are the run's, however many workers it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from distill.errors import DistillError
from distill.teachers.api.client import ApiConfig
from distill.teachers.causal import CausalConfig
from distill.teachers.local import LocalConfig


def share(config: BaseModel, workers: int) -> BaseModel:
    """The configuration for one of so many workers: calls at once and limits per minute are divided among them.

    Those of an ensemble's members are, too. Raises DistillError for more workers than calls at once.
    """
    if isinstance(config, ApiConfig):
        if config.concurrency < workers:
            raise DistillError(
                f"--workers {workers}: the teacher's `concurrency` allows {config.concurrency} calls at once in all; "
                "raise it, or take fewer workers"
            )
        limits = {"requests_per_minute": config.requests_per_minute, "tokens_per_minute": config.tokens_per_minute}
        divided = {name: limit / workers for name, limit in limits.items() if limit is not None}
        return config.model_copy(update={"concurrency": config.concurrency // workers, **divided})
    parts = {name: getattr(config, name) for name in type(config).model_fields}
    return config.model_copy(update={name: _share(part, workers) for name, part in parts.items()})


def computes(config: BaseModel) -> bool:
    """Whether a teacher, or a member of it, is a model in torch, which a GPU is for."""
    return any(isinstance(part, LocalConfig | CausalConfig) for part in _sections(config))


def _share(value: Any, workers: int) -> Any:
    if isinstance(value, BaseModel):
        return share(value, workers)
    return tuple(_share(item, workers) for item in value) if isinstance(value, tuple) else value


def _sections(value: Any) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from _sections(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _sections(item)
