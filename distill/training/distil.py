"""Distil: train a student on a teacher's soft labels, and calibrate its temperature to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate.utils import set_seed

from distill.data.splits import Train, Validation, require
from distill.errors import DistillError
from distill.evaluation.calibration import calibrate_temperature
from distill.labelling.embeddings import Embeddings
from distill.labelling.soft_labels import SoftLabels
from distill.progress import status
from distill.students.config import DecoderStudent, EncoderStudent, NgramsStudent, StudentConfig, trains_embeddings
from distill.students.student import Student, StudentModule, load_student, predict
from distill.students.vocabulary import compact_tables
from distill.training.checkpoint import Checkpoint
from distill.training.course import History
from distill.training.embedding_phase import fit_embedding
from distill.training.loop import train
from distill.training.losses import distillation_loss


@dataclass(frozen=True, slots=True)
class DistilledStudent:
    """A trained student, and the record of its training."""

    student: Student
    record: dict[str, Any]


def distil(
    config: StudentConfig,
    soft: SoftLabels,
    learn: Train,
    choose: Validation,
    description: str,
    weights: npt.NDArray[np.float64] | None = None,
    checkpoint: Checkpoint | None = None,
    embeddings: Embeddings | None = None,
) -> DistilledStudent:
    """Train a student on the soft labels of `learn`; `choose` decides on the epoch, by agreement, and the temperature.

    `weights` [N], with a mean near 1, say how much each row of `learn` counts; None: all alike. A training that was
    stopped goes on from `checkpoint`. An embedding phase needs the teacher's `embeddings`, and leaves out rows without
    one. Raises TypeError for a split of another kind, and DistillError when training
    fails.
    """
    learn, choose = require(learn, Train), require(choose, Validation)
    if not len(learn) or not len(choose):
        raise DistillError(
            f"{description}: of the rows that the teacher labelled, {len(learn)} train and {len(choose)} choose; "
            "both need some"
        )
    set_seed(config.optimisation.seed)  # the head is initialised at random
    try:
        student = build_student(config, soft.labels, learn)
    except DistillError as error:
        raise DistillError(f"{description}: {error}") from error
    with status(f"{description}: splitting the texts into tokens"):
        tokens, held_tokens = student.encode(learn.texts), student.encode(choose.texts)
    weight = np.ones(len(learn)) if weights is None else weights
    # The weight of a row travels with its target, as a last column.
    targets = np.column_stack([soft.probabilities[soft.rows_of(learn.ids)], weight])
    wanted = soft.probabilities[soft.rows_of(choose.ids)]
    module = student.network.module
    frozen = not trains_embeddings(config)
    first = None
    with compact_tables(module, tokens, held_tokens, frozen=frozen) as (rows, held):
        if config.embedding_phase is not None:
            first = _embedding_phase(config, module, (learn, rows), (choose, held), embeddings, description, checkpoint)
        history = train(
            module,
            rows,
            targets,
            lambda logits, target: distillation_loss(logits, target[:, :-1], target[:, -1], loss=config.loss),
            lambda trained: float((predict(trained, held).argmax(1) == wanted.argmax(1)).mean()),
            config.optimisation,
            description,
            checkpoint,
        )
        with status(f"{description}: calibrating"):
            logits = predict(module, held)
            temperature = calibrate_temperature(logits, wanted)
    student = student.with_temperature(temperature)
    record = {
        "validation_agreement": float(np.max(history.scores)),
        "best_epoch": history.best,
        "epochs": len(history.losses),
        "losses": history.losses,
        "scores": history.scores,
        "temperature": student.temperature,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
    }
    if first is not None:
        record["embedding_phase"] = {"explained": first.scores, "best_epoch": first.best, "losses": first.losses}
    return DistilledStudent(student, record)


def _embedding_phase(
    config: StudentConfig,
    module: StudentModule,
    learn: tuple[Train, Sequence[list[int]]],
    choose: tuple[Validation, Sequence[list[int]]],
    embeddings: Embeddings | None,
    description: str,
    checkpoint: Checkpoint | None,
) -> History:
    """Fit the embedding on rows, each split with its token ids. Raises DistillError if the teacher's are missing."""
    if embeddings is None or config.embedding_phase is None:
        raise DistillError(f"{description}: embedding_phase: the teacher's embeddings are missing; run `reflux label`")
    rows, wanted = embeddings.known(*learn)
    held, held_wanted = embeddings.known(*choose)
    if not rows or not held:
        raise DistillError(f"{description}: embedding_phase: no row has an embedding; run `reflux label` again")
    return fit_embedding(
        module,
        rows,
        wanted,
        held,
        held_wanted,
        config.embedding_phase,
        config.optimisation,
        description,
        None if checkpoint is None else checkpoint.phase("embedding"),
    )


def build_student(config: StudentConfig, labels: tuple[str, ...], learn: Train) -> Student:
    """Build the untrained student of a configuration."""
    if isinstance(config, EncoderStudent):
        from distill.students.encoder import build as build_encoder

        return build_encoder(config, labels)
    if isinstance(config, DecoderStudent):
        from distill.students.decoder import build as build_decoder

        return build_decoder(config, labels)
    if isinstance(config, NgramsStudent):
        from distill.students.ngrams import build as build_ngrams

        return build_ngrams(config, labels)
    from distill.students.static import build as build_static

    return build_static(config, labels, learn.texts)


def load_for_training(folder: Path, config: StudentConfig) -> Student:
    """Load the trained student of a configuration to train it further, under the conditions of `build_student`."""
    student = load_student(folder)
    if isinstance(config, EncoderStudent):
        from distill.students.encoder import prepare as prepare_encoder

        prepare_encoder(student)
    if isinstance(config, DecoderStudent):
        from distill.students.decoder import prepare as prepare_decoder

        prepare_decoder(student, config)
    return student
