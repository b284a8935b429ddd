"""Check that a task's models can be trained as it says, from their configurations alone, before labels cost money."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from distill.errors import DistillError
from distill.students.config import DecoderStudent, EncoderStudent, NgramsStudent, StudentConfig
from distill.students.decoder import require_peft
from distill.students.encoder import load_without_weights, pretrained_tokenizer, require_length
from distill.students.layers import select_layers
from distill.students.pretrained import locate
from distill.students.prunable import prunable_layers, require_shares
from distill.students.trimmable import require_trimmable
from distill.task import TEACHER, Prune, Task


def require_models(task: Task, *, elsewhere: bool = False) -> None:
    """Raise DistillError, naming the task's key, for a missing model, or one with too few positions or layers.

    Checks `max_tokens` of a teacher to fine-tune, `max_tokens` and `layers` of students, and that the export can prune
    and trim them. What a configuration does not say is found when the model is loaded. If students are trained
    `elsewhere`, their models may be missing here.
    """
    teacher = task.finetuning[0] if task.finetuning else None
    if teacher is not None:
        _require("teacher", teacher.model, teacher.max_tokens)
    for name, student in task.students.items():
        _require_student(f"students.{name}", student, task, elsewhere=elsewhere)


def failing_students(task: Task, students: Mapping[str, StudentConfig]) -> list[str]:
    """Return a line about each student, by the task's key, that cannot be trained or exported as the task says."""
    found = []
    for key, student in students.items():
        try:
            _require_student(key, student, task)
        except DistillError as error:
            found.append(str(error))
    return found


def _require_student(key: str, student: StudentConfig, task: Task, *, elsewhere: bool = False) -> None:
    teacher = task.finetuning[0] if task.finetuning else None
    model = teacher.model if student.model == TEACHER and teacher is not None else student.model
    trim = task.export.trim_vocabulary
    if isinstance(student, EncoderStudent):
        prune = task.export.prune
        _require(key, model, student.max_tokens, student.layers, prune, trim=trim, elsewhere=elsewhere)
    elif isinstance(student, DecoderStudent):
        _require_decoder(key, model, student.max_tokens, trim=trim, elsewhere=elsewhere)
    elif isinstance(student, NgramsStudent):
        _require_tokenizer(key, model, elsewhere=elsewhere)
    else:
        _require(key, model, 1, trim=trim, elsewhere=elsewhere)  # a static student has no positions


def _require(
    key: str,
    model: str,
    max_tokens: int,
    layers: int | tuple[int, ...] | None = None,
    prune: Sequence[Prune] = (),
    *,
    trim: bool = False,
    elsewhere: bool = False,
) -> None:
    try:
        with _naming(f"{key}.model"):
            name = locate(model)
            start = load_without_weights(name)
            tokenizer = pretrained_tokenizer(name) if trim else None
    except DistillError:
        if elsewhere:
            return
        raise
    if tokenizer is not None:
        with _naming(f"{key}.model"):
            require_trimmable(tokenizer)
    if start is None:
        return
    with _naming(f"{key}.max_tokens"):
        require_length(start, max_tokens, name)
    if layers is not None:
        with _naming(f"{key}.layers"):
            select_layers(start.encoder, layers)
    if prune:
        with _naming(f"{key}.model"):
            parts = prunable_layers(start.encoder)
        with _naming(key):
            for each in prune:
                require_shares(parts, each.heads, each.feed_forward)


def _require_decoder(key: str, model: str, max_tokens: int, *, trim: bool, elsewhere: bool) -> None:
    if not elsewhere:
        with _naming(key):
            require_peft()
    _require(key, model, max_tokens, trim=trim, elsewhere=elsewhere)


def _require_tokenizer(key: str, model: str, *, elsewhere: bool) -> None:
    try:
        with _naming(f"{key}.model"):
            pretrained_tokenizer(locate(model))
    except DistillError:
        if not elsewhere:
            raise


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Put the key before the message of a DistillError."""
    try:
        yield
    except DistillError as error:
        raise DistillError(f"{key}: {error}") from error
