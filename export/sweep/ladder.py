"""Which students a sweep trains: the task's own, and those of its section `sweep` or of a default ladder."""

from __future__ import annotations

from distill.students.config import EncoderStudent, NgramsStudent, StaticStudent, StudentConfig
from distill.students.encoder import load_without_weights
from distill.students.layers import layers_of, spread
from distill.students.pretrained import locate
from distill.task import TEACHER, Task

RUNGS = (1, 2, 3, 4, 6)
"""The numbers of layers of the default ladder."""


def ladder(task: Task) -> dict[str, StudentConfig]:
    """Return the students of a sweep by name: the task's own first.

    The default ladder starts from the model of the task's first encoder, or of its first student, and trains encoders
    as that encoder is trained. It leaves out what the task has already, and n-grams, which have no vocabulary to trim,
    where the task trims it. Raises DistillError when the model cannot be
    loaded.
    """
    own = dict(task.students)
    if task.sweep is not None:
        return own | dict(task.sweep.students)
    first = next((each for each in own.values() if isinstance(each, EncoderStudent)), None)
    model = first.model if first is not None else next(iter(own.values())).model
    depth = _depth(task, model)
    base = first or EncoderStudent(family="encoder", model=model)
    rungs: dict[str, StudentConfig] = {}
    if not task.export.trim_vocabulary and not any(isinstance(each, NgramsStudent) for each in own.values()):
        rungs["ngrams"] = NgramsStudent(family="ngrams", model=model)
    if not any(isinstance(each, StaticStudent) for each in own.values()):
        rungs["static"] = StaticStudent(family="static", model=model)
    taken = {_layers(each, depth) for each in own.values() if isinstance(each, EncoderStudent) and each.model == model}
    for count in RUNGS:
        if count <= depth and spread(count, depth) not in taken:
            rungs[f"layers-{count}"] = base.model_copy(update={"layers": count})
    return own | {name: student for name, student in rungs.items() if name not in own}


def _layers(student: EncoderStudent, depth: int) -> tuple[int, ...]:
    return spread(student.layers, depth) if isinstance(student.layers, int) else student.layers


def _depth(task: Task, model: str) -> int:
    """Return how many layers a model has; the most of the ladder if only its weights would tell."""
    if model == TEACHER and task.finetuning is not None:
        model = task.finetuning[0].model
    start = load_without_weights(locate(model))
    return max(RUNGS) if start is None else len(layers_of(start.encoder))
