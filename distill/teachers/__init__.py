"""Teachers, one file per kind, behind one protocol. Importing this package loads no model library.

A kind is an entry point of the group `reflux.teachers` for a class that implements `base.Teacher`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel

from distill.teachers.account import Account
from distill.teachers.base import Answer, AnswerOutcome, Method, Teacher, label_order
from distill.teachers.errors import TeacherError

__all__ = [
    "Account",
    "Answer",
    "AnswerOutcome",
    "Method",
    "Teacher",
    "TeacherError",
    "create",
    "kinds",
    "label_order",
    "parse",
]

GROUP = "reflux.teachers"


def kinds() -> tuple[str, ...]:
    """The names of the installed kinds of teacher."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def teacher_class(kind: object) -> type[Teacher]:
    """The class of a kind. Raises TeacherError for a kind that is not installed."""
    for point in entry_points(group=GROUP):
        if point.name == kind:
            loaded: type[Teacher] = point.load()
            return loaded
    raise TeacherError(f"kind: expected one of {', '.join(kinds())}")


def parse(config: Mapping[str, Any]) -> BaseModel:
    """Validate the configuration of a teacher, a mapping with a `kind`.

    Raises TeacherError for an unknown kind and pydantic's ValidationError for invalid settings.
    """
    return teacher_class(config.get("kind")).config_type.model_validate(config)


def create(
    config: Mapping[str, Any] | BaseModel,
    labels: Sequence[str],
    account: Account | None = None,
    *,
    retried_within: float | None = None,
) -> Teacher:
    """Make the teacher that a configuration describes; its answers have the order of `labels`.

    Its calls are charged to `account`; without one, nothing is stored and no budget applies. For a caller that retries
    by itself within so many seconds (`retried_within`), it makes one attempt at each call, and fails at once if its
    server asks for a longer wait, whatever the configuration says; so do the members of an ensemble. Raises
    TeacherError.
    """
    typed = config if isinstance(config, BaseModel) else parse(config)
    if retried_within is not None:
        typed = _replaced(typed, {"attempts": 1, "patience_seconds": retried_within})
    return teacher_class(getattr(typed, "kind", None)).from_config(typed, labels, account)


def _replaced(config: BaseModel, settings: Mapping[str, float]) -> BaseModel:
    """Return a copy with these settings wherever it, or a configuration within it, has them."""
    changes: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if name in settings:
            changes[name] = settings[name]
        elif isinstance(value, BaseModel):
            changes[name] = _replaced(value, settings)
        elif isinstance(value, tuple) and any(isinstance(one, BaseModel) for one in value):
            changes[name] = tuple(_replaced(one, settings) if isinstance(one, BaseModel) else one for one in value)
    return config.model_copy(update=changes)
