"""Train a student in other ways, to see what the soft labels are worth: the comparison rows of the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from accelerate.utils import set_seed

from distill.data.splits import Train, Validation, gold_classes
from distill.evaluation.calibration import calibrate_temperature, one_hot
from distill.labelling.soft_labels import SoftLabels
from distill.students.config import StudentConfig, trains_embeddings
from distill.students.student import predict
from distill.students.vocabulary import compact_tables
from distill.training.checkpoint import Checkpoint
from distill.training.distil import DistilledStudent, distil, load_for_training
from distill.training.loop import train
from distill.training.losses import hard_cross_entropy, soft_loss

Way = Literal["pretrained", "gold", "hard", "human"]
"""How a student is trained for comparison.

`pretrained`: on gold labels, from the model that the teacher was fitted from, so that nothing comes from the teacher.
`gold`: on gold labels. `hard`: on the teacher's first choices. `human`: on soft labels, then a little on gold labels.
"""

# Of a human-label stage: its epochs, the divisor of the learning rate, and the weight of the soft labels, which keeps
# the student from forgetting them.
_EPOCHS, _SLOWER, _SOFT = 3, 3, 0.5


def train_on_labels(
    way: Literal["pretrained", "gold", "hard"],
    config: StudentConfig,
    soft: SoftLabels,
    learn: Train,
    choose: Validation,
    description: str,
    checkpoint: Checkpoint | None = None,
) -> DistilledStudent:
    """Train a student on hard labels: the teacher's, or the gold labels, which all rows of both splits must have then.

    Nothing else comes from the teacher, so there is no embedding phase. With gold labels, `choose` decides by them.
    A training that was stopped goes on from `checkpoint`. Raises DistillError as `distil` does.
    """
    alone = {"loss": config.loss.model_copy(update={"hard": 1.0}), "embedding_phase": None}
    hard = config.model_copy(update=alone)
    if way == "hard":
        return distil(hard, soft, learn, choose, description, checkpoint=checkpoint)
    return distil(hard, _as_gold(_as_gold(soft, learn), choose), learn, choose, description, checkpoint=checkpoint)


def train_on_people(
    distilled: Path,
    config: StudentConfig,
    soft: SoftLabels,
    learn: Train,
    choose: Validation,
    description: str,
    checkpoint: Checkpoint | None = None,
) -> DistilledStudent:
    """Train the distilled student of a folder further, on gold labels, which all rows of both splits must have.

    A few epochs with a lower learning rate and half the weight on the soft labels. `choose` decides by its gold labels
    on the epoch, and by the soft labels on the temperature. A training that was stopped goes on from `checkpoint`.
    """
    set_seed(config.optimisation.seed)  # adapters are initialised at random
    student = load_for_training(distilled, config)
    optimisation = config.optimisation.model_copy(
        update={
            "epochs": min(_EPOCHS, config.optimisation.epochs),
            "learning_rate": config.optimisation.learning_rate / _SLOWER,
        }
    )
    said = soft.probabilities[soft.rows_of(learn.ids)]
    targets = np.column_stack([said, one_hot(gold_classes(learn, soft.labels), len(soft.labels))])
    true = gold_classes(choose, soft.labels)
    module = student.network.module
    frozen = not trains_embeddings(config)
    tokens, held_tokens = student.encode(learn.texts), student.encode(choose.texts)
    with compact_tables(module, tokens, held_tokens, frozen=frozen) as (rows, held):
        history = train(
            module,
            rows,
            targets,
            lambda logits, both: (
                _SOFT * soft_loss(logits, both.chunk(2, -1)[0], loss=config.loss)
                + (1 - _SOFT) * hard_cross_entropy(logits, both.chunk(2, -1)[1])
            ),
            lambda trained: float((predict(trained, held).argmax(1) == true).mean()),
            optimisation,
            description,
            checkpoint,
        )
        logits = predict(module, held)
    temperature = calibrate_temperature(logits, soft.probabilities[soft.rows_of(choose.ids)])
    record = {"validation_accuracy": max(history.scores), "best_epoch": history.best, "losses": history.losses}
    return DistilledStudent(student.with_temperature(temperature), record)


def _as_gold(soft: SoftLabels, split: Train | Validation) -> SoftLabels:
    """Return a copy in which the rows of a split say their gold label."""
    probabilities = soft.probabilities.copy()
    probabilities[soft.rows_of(split.ids)] = one_hot(gold_classes(split, soft.labels), len(soft.labels))
    return replace(soft, probabilities=probabilities)
