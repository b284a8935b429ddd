"""Cross-fitted labels: a row that the teacher was fitted on gets its label from a teacher that has not seen it.

A teacher is surer of the rows that it was fitted on than of others, so its soft labels for them say little more than
the gold labels do. The gold rows are split into folds; for each fold a teacher is fitted on the other folds, and labels
the rows of the pool whose texts are in the fold, with their views. All other rows keep the label of the teacher itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import numpy.typing as npt

from distill.data.splits import Examples, normalise
from distill.data.views import source_of
from distill.labelling.soft_labels import SoftLabels
from distill.stages import Stage, write_atomic
from distill.teachers.base import label_order
from distill.teachers.local import Fit, LocalConfig

if TYPE_CHECKING:
    from distill.training.checkpoint import Checkpoint

RECORD = "training.json"


@dataclass(frozen=True, slots=True)
class CrossFit:
    """The teachers of the folds, each a stage in `root`, beside the fitted `teacher` of a configuration."""

    root: Path
    teacher: Stage
    config: LocalConfig
    fit: Fit
    folds: int

    def stage(self, fold: int) -> Stage:
        """The teacher that has not seen the rows of a fold."""
        return Stage(self.root / str(fold), {**self.teacher.inputs, "fold": [fold, self.folds]})

    def make(self, gold: Examples, labels: Sequence[str]) -> None:
        """Fit the teachers that are not up to date. Raises StoppedError on Ctrl-C; the epochs so far stay stored."""
        from distill.training.checkpoint import Checkpoint

        folds = folds_of(gold.texts, self.folds)
        for fold in range(self.folds):
            others = gold.take(np.flatnonzero(folds != fold).tolist())
            stage = self.stage(fold)
            checkpoint = Checkpoint.of(stage)
            with checkpoint.until_done():
                stage.ensure(partial(self._finetune, others, labels, checkpoint))

    def relabel(self, soft: SoftLabels, gold: Examples) -> tuple[SoftLabels, int]:
        """Replace the labels of rows whose texts are among `gold`, and return how many those are."""
        from distill.students.student import load_student, probabilities

        text_of = dict(zip(soft.ids, soft.texts, strict=True))
        sources = [text_of.get(source_of(name), text) for name, text in zip(soft.ids, soft.texts, strict=True)]
        seen = {normalise(text) for text in gold.texts}
        known, folds = np.array([normalise(text) in seen for text in sources]), folds_of(sources, self.folds)
        said = (soft.probabilities if soft.raw is None else soft.raw).copy()
        for fold in range(self.folds):
            rows = np.flatnonzero(known & (folds == fold))
            if len(rows):
                teacher = load_student(self.stage(fold).require("label"))
                logits = teacher.logits([soft.texts[row] for row in rows], batch_size=self.config.batch_size)
                order = label_order(teacher.labels, soft.labels, "the teacher of a fold")
                said[rows] = probabilities(logits, teacher.temperature)[:, order]
        relabelled = replace(soft, probabilities=said, raw=None)
        if soft.scaling is not None:
            relabelled = relabelled.calibrated(soft.scaling)
        return relabelled, int(known.sum())

    def _finetune(self, rows: Examples, labels: Sequence[str], checkpoint: Checkpoint, folder: Path) -> None:
        from distill.training.finetune import finetune

        teacher, record = finetune(
            self.config.model,
            rows,
            labels,
            max_tokens=self.config.max_tokens,
            validation=self.fit.validation,
            optimisation=self.fit.optimisation,
            checkpoint=checkpoint,
        )
        teacher.save(folder)
        write_atomic(folder / RECORD, json.dumps(record, indent=2) + "\n")


def folds_of(texts: Sequence[str], folds: int) -> npt.NDArray[np.intp]:
    """Return the fold of each text, [N]. Texts that differ in case and spacing alone are in one fold."""
    return np.array([crc32(normalise(text).encode("utf-8", "surrogatepass")) % folds for text in texts], dtype=np.intp)
