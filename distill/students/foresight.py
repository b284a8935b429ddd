"""What can be told of a task's models before anything is labelled: from their configurations, without their weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distill.errors import DistillError
from distill.students.encoder import blank_start, require_length
from distill.students.layers import take_layers
from distill.students.pretrained import locate
from distill.task import TEACHER, EncoderStudent, Task
from distill.teachers.local import LocalConfig


def require_models(task: Task, *, elsewhere: bool = False) -> None:
    """Raise DistillError, naming the key, for a model of the task that is not there or is asked for more than it has.

    That is `max_tokens` of a teacher that is to be fitted, and `max_tokens` and `layers` of students. What a
    configuration does not tell is found when the model is loaded. Where students are trained `elsewhere`, their models
    need not be here.
    """
    fitted = task.teacher if isinstance(task.teacher, LocalConfig) and task.teacher.fit is not None else None
    if fitted is not None:
        _require("teacher", fitted.model, fitted.max_tokens)
    for name, student in task.students.items():
        model = fitted.model if student.model == TEACHER and fitted is not None else student.model
        if isinstance(student, EncoderStudent):
            _require(f"students.{name}", model, student.max_tokens, student.layers, elsewhere=elsewhere)
        else:
            _require(f"students.{name}", model, 1, elsewhere=elsewhere)  # it reads on where its model's positions end


def _require(
    key: str, model: str, max_tokens: int, layers: tuple[int, ...] | None = None, *, elsewhere: bool = False
) -> None:
    try:
        with _named(f"{key}.model"):
            name = locate(model)
            start = blank_start(name)
    except DistillError:
        if elsewhere:
            return
        raise
    if start is None:
        return
    with _named(f"{key}.max_tokens"):
        require_length(start, max_tokens, name)
    if layers is not None:
        with _named(f"{key}.layers"):
            take_layers(start.encoder, layers)


@contextmanager
def _named(key: str) -> Iterator[None]:
    try:
        yield
    except DistillError as error:
        raise DistillError(f"{key}: {error}") from error
