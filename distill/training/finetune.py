"""Fine-tune a local teacher's encoder on gold labels. It has the form of a student, and is trained like one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate.utils import set_seed
from torch.nn import functional

from distill.data.checks import lacks_gold, unknown_labels
from distill.data.splits import Examples, Train, Validation, gold_classes, hold_out
from distill.errors import DistillError
from distill.evaluation.calibration import calibrate_temperature, one_hot
from distill.progress import bar
from distill.sections import Optimisation
from distill.students.encoder import classifier_over
from distill.students.pretrained import locate
from distill.students.student import Student, predict
from distill.students.vocabulary import compact_tables
from distill.training.checkpoint import Checkpoint
from distill.training.course import History
from distill.training.loop import train


def finetune(
    model: str,
    gold: Examples,
    labels: Sequence[str],
    *,
    max_tokens: int,
    validation: float,
    optimisation: Optimisation,
    checkpoint: Checkpoint | None = None,
) -> tuple[Student, dict[str, Any]]:
    """Fine-tune an encoder with a linear head on gold labels, and calibrate its temperature on held-out rows.

    `validation` is the share of rows held out. A training that was stopped goes on from `checkpoint`. Returns the
    classifier and a record of the training. Raises DistillError when rows lack a gold label.
    """
    if why := lacks_gold(gold):
        raise DistillError(f"teacher.fit.data: {why}")
    if unknown := unknown_labels(gold.gold, labels):
        raise DistillError(f"teacher.fit.data: {unknown}")
    learn, held = hold_out(gold, validation, optimisation.seed)
    if not len(held):
        raise DistillError(
            f"teacher.fit: no row of {len(gold)} is held out to calibrate; raise `validation` or add rows"
        )
    set_seed(optimisation.seed)  # the head is initialised at random
    teacher = classifier_over(locate(model), labels, max_tokens)
    history = _train(teacher, learn, held, optimisation, checkpoint)
    with bar("calibrating the teacher", len(held)) as advance:
        logits = teacher.logits(held.texts, advance=advance)
    classes = gold_classes(held, labels)
    teacher = teacher.with_temperature(calibrate_temperature(logits, one_hot(classes, len(labels))))
    record = {
        "gold_rows": len(gold),
        "validation_rows": len(held),
        "validation_accuracy": float((logits.argmax(1) == classes).mean()),
        "temperature": teacher.temperature,
        "best_epoch": history.best,
        "losses": history.losses,
    }
    return teacher, record


def _train(
    teacher: Student, learn: Train, held: Validation, optimisation: Optimisation, checkpoint: Checkpoint | None
) -> History:
    module = teacher.network.module
    targets = one_hot(gold_classes(learn, teacher.labels), len(teacher.labels))
    truth = gold_classes(held, teacher.labels)
    with compact_tables(module, teacher.encode(learn.texts), teacher.encode(held.texts)) as (rows, held_rows):
        return train(
            module,
            rows,
            targets,
            functional.cross_entropy,
            lambda trained: float((predict(trained, held_rows).argmax(1) == truth).mean()),
            optimisation,
            "fine-tuning the teacher",
            checkpoint,
        )
