"""Each worker's quota: a teacher's limits hold for the whole run, so they are divided among the workers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from distill.errors import DistillError
from distill.sections import walk
from distill.teachers.api.config import ApiConfig
from distill.teachers.causal import CausalConfig
from distill.teachers.local import LocalConfig


def quota(config: BaseModel, workers: int) -> BaseModel:
    """Divide a configuration's concurrent calls and limits per minute by `workers`, also those of ensemble members.

    Raises DistillError if there are more workers than concurrent calls.
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
    return config.model_copy(update={name: _divided(part, workers) for name, part in parts.items()})


def runs_torch(config: BaseModel) -> bool:
    """Whether a teacher, or a member of an ensemble, runs a model in torch, for which a worker takes a GPU."""
    return any(isinstance(value, LocalConfig | CausalConfig) for _, value in walk(config))


def _divided(value: Any, workers: int) -> Any:
    if isinstance(value, BaseModel):
        return quota(value, workers)
    return tuple(_divided(item, workers) for item in value) if isinstance(value, tuple) else value
