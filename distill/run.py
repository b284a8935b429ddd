"""A run: the folder of one task's stages, from data to trained students. `export.run` has the later stages.

`data` → `teacher` (if it is fine-tuned) → `labels` → `embeddings` (if a student needs them) → `students/NAME`. A stage
is skipped if nothing that determines it has changed. The teacher's answers are kept in `answers.sqlite`, whatever the
task becomes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from distill import teachers
from distill.cross_fit import CrossFit
from distill.data import prepared
from distill.data.prepared import Splits, read_splits
from distill.data.sources import read, source_digest
from distill.data.splits import S, Train, Validation, cast, join
from distill.decision import require_names
from distill.errors import TaskError
from distill.evaluation.constant_answers import teacher_warnings
from distill.labelling.account import dollars
from distill.labelling.audit import terms_of
from distill.labelling.embeddings import Embeddings, embed_all
from distill.labelling.session import LabellingOptions, LabellingSession
from distill.labelling.soft_labels import SCHEMA, SoftLabels
from distill.preparation import prepare
from distill.progress import status
from distill.stages import Stage, fingerprint, write_atomic
from distill.students.config import StudentConfig
from distill.students.pretrained import display_name, weights_version
from distill.task import TEACHER, Student, Task
from distill.teachers.digest import teacher_digest
from distill.teachers.local import Fit, LocalConfig

if TYPE_CHECKING:
    from distill.training.distil import DistilledStudent

LABELS = "labels.parquet"
ANSWERS = "answers.sqlite"
EMBEDDINGS = "embeddings.parquet"
RECORD = "training.json"


class Run:
    """The stages of a task under one folder."""

    def __init__(self, task: Task, root: Path) -> None:
        self.task = task
        self.root = root
        self._asked = 0

    @cached_property
    def data(self) -> Stage:
        """The rows, deduplicated and split."""
        task = self.task
        sources = [task.data.train, task.data.test, task.data.validation]
        if task.data.unlabelled is not None:
            sources.append(task.data.unlabelled)
        if task.finetuning is not None:
            sources.append(task.finetuning[1].data)  # the task's labels and the findings depend on its gold labels
        if task.labelling.calibration is not None:
            sources.append(task.labelling.calibration.data)
        inputs = {
            "schema": prepared.SCHEMA,
            "data": task.data.model_dump(mode="json"),
            "labels": task.labels,
            "files": [source_digest(source) for source in sources if not isinstance(source, float)],
        }
        return Stage(self.root / "data", inputs)

    @cached_property
    def finetuned_teacher(self) -> Stage | None:
        """The teacher fine-tuned on gold labels, or None if the task has no `fit`."""
        if self.task.finetuning is None:
            return None
        teacher, fit = self.task.finetuning
        unused: dict[str, Any] = {"batch_size": True, "usd_per_hour": True, "fit": {"folds"}}
        inputs = {
            "teacher": teacher.model_dump(mode="json", exclude=unused),
            "weights": weights_version(teacher.model),
            "files": [source_digest(fit.data)],
            "data": self.data.fingerprint,
        }
        return Stage(self.root / "teacher", inputs)

    @property
    def cross_fit(self) -> CrossFit | None:
        """The teachers of the folds, or None if the task has no folds."""
        if self.finetuned_teacher is None or self.task.finetuning is None:
            return None
        config, fit = self.task.finetuning
        if fit.folds is None:
            return None
        return CrossFit(self.root / "folds", self.finetuned_teacher, config, fit, fit.folds)

    @cached_property
    def label_inputs(self) -> dict[str, Any]:
        """What determines the soft labels, and so the students."""
        fitted, calibration = self.finetuned_teacher, self.task.labelling.calibration
        views, paraphrases = self.task.labelling.views, self.task.labelling.paraphrases
        return {
            "schema": SCHEMA,
            "data": self.data.fingerprint,
            "teacher": fitted.fingerprint if fitted else teacher_digest(self.task.teacher),
            "calibration": calibration and calibration.method,  # its rows are inputs of the data
            **({} if views is None else {"views": views.model_dump(mode="json")}),
            **({} if paraphrases is None else {"paraphrases": paraphrases.model_dump(mode="json")}),
            **({} if self.cross_fit is None else {"folds": self.cross_fit.folds}),
        }

    @cached_property
    def labels(self) -> Stage:
        """The teacher's soft labels for every split, and the record of its audit."""
        recorded = {"twice": self.task.labelling.self_agreement, "terms": terms_of(self.task.teacher)}
        return Stage(self.root / "labels", {**self.label_inputs, **recorded})

    @property
    def embeddings(self) -> Stage | None:
        """The teacher's embeddings of the texts that train and choose, or None if no student is fitted to them."""
        if all(student.embedding_phase is None for student in self.task.all_students.values()):
            return None
        what = ("data", "teacher", "views")
        return Stage(self.root / "embeddings", {name: self.label_inputs.get(name) for name in what})

    def student(self, name: str) -> Stage:
        """A trained student."""
        config = self.task.students[name]
        inputs = {
            "student": config.model_dump(mode="json"),
            # For TEACHER, the fingerprint of the fine-tuned teacher is among what determines the labels.
            "weights": None if config.model == TEACHER else weights_version(config.model),
            "labels": fingerprint(self.label_inputs),
        }
        return Stage(self.root / "students" / name, inputs)

    def student_config(self, name: str) -> Student:
        """Return the configuration of a student, with the path of the fine-tuned teacher if it begins there."""
        config = self.task.students[name]
        if config.model == TEACHER and self.finetuned_teacher is not None:
            return config.model_copy(update={"model": str(self.finetuned_teacher.path)})
        return config

    def make_data(self) -> Splits:
        """Make the data stage unless it is up to date.

        Raises DataError if the data has a problem, and TaskError if the decision names a label that the data has not.
        """
        self.data.ensure(lambda folder: prepare(self.task, folder))
        splits = self.splits()
        if self.task.decision is not None:
            try:
                require_names(self.task.decision, splits.labels)
            except ValueError as error:
                raise TaskError(str(error)) from error
        return splits

    def splits(self) -> Splits:
        """Read the data of the finished stage."""
        return read_splits(self.data.require("check"))

    def require_models(self, *, elsewhere: bool = False) -> None:
        """Raise DistillError for a model that cannot be trained as the task says, as far as this machine can tell.

        Without transformers nothing is checked, as labelling does not need it. If students are trained `elsewhere`,
        their models may be missing here.
        """
        if find_spec("transformers") is None:
            return
        from distill.training.requirements import require_models

        require_models(self.task, elsewhere=elsewhere)

    def sweep_warnings(self, students: Mapping[str, StudentConfig]) -> list[str]:
        """Warn of students of a sweep that will fail, given by key.

        Without transformers nothing is checked, as in `require_models`.
        """
        if find_spec("transformers") is None:
            return []
        from distill.training.requirements import failing_students

        return [f"{why}; `reflux sweep` goes on without it" for why in failing_students(self.task, students)]

    def make_teacher(self) -> None:
        """Fine-tune the teacher, and those of the folds, if the task asks for it, unless they are up to date.

        Raises StoppedError on Ctrl-C; the epochs so far stay stored.
        """
        if self.finetuned_teacher is not None and self.task.finetuning is not None:
            from distill.training.checkpoint import Checkpoint

            config, fit = self.task.finetuning
            with Checkpoint.of(self.finetuned_teacher).until_done():
                self.finetuned_teacher.ensure(lambda folder: self._finetune_teacher(folder, config, fit))
            if self.cross_fit is not None:
                self.cross_fit.make(read(fit.data, "gold"), self.splits().labels)

    def teacher_config(self) -> BaseModel:
        """The configuration of the teacher to ask: the task's, or that of the fine-tuned one."""
        if self.finetuned_teacher is None or self.task.finetuning is None:
            return self.task.teacher
        config, _ = self.task.finetuning
        return config.model_copy(
            update={
                "fit": None,
                "model": str(self.finetuned_teacher.require("label")),
                "name": config.name or display_name(config.model),
            }
        )

    def make_labels(self, options: LabellingOptions | None = None) -> SoftLabels:
        """Make the soft labels, and the embeddings if a student needs them, unless they are up to date.

        No text with a stored answer is asked about again.

        Raises BudgetError when `max_usd` is too little and StoppedError on Ctrl-C; the answers so far stay stored.
        """
        if not self.labels.done:
            self.require_models(elsewhere=True)
        self.make_teacher()
        with status("reading what the labels depend on"):  # hashes a teacher's weights and a prompt's examples
            stage = self.labels
        stage.ensure(lambda folder: self._write_labels(folder, options or LabellingOptions()))
        if self.embeddings is not None:
            self.embeddings.ensure(self._write_embeddings)
        return self.soft_labels()

    def forecast(self) -> list[str]:
        """Return lines that say what the missing labels will cost and how long they take, without making a call."""
        return LabellingSession(self.task, self.task.teacher, self.splits(), self.root / ANSWERS).forecast()

    def labelling(self) -> str:
        """Summarise the labelling in a line."""
        record = json.loads((self.labels.require("label") / RECORD).read_text(encoding="utf-8"))
        cut = f", {record['truncated']:,} cut to what the model reads" if "truncated" in record else ""
        if "paraphrases" in record:
            shown = (
                ", {without:,} of {texts:,} texts without paraphrases, {new:,} of {written:,} paraphrases are new texts"
            )
            cut += shown.format(**record["paraphrases"])
        return (
            f"{record['refused']:,} refused, {record['invalid']:,} invalid{cut}; {self._asked:,} asked now; "
            f"{dollars(record['spent_usd'])} spent on calls in all"
        )

    def soft_labels(self) -> SoftLabels:
        """Read the soft labels of the finished stage, at the price that the teacher has now."""
        return SoftLabels.read(self.labels.require("label") / LABELS).at_price_of(self.task.teacher)

    def labelled(self) -> tuple[Train, Validation]:
        """Return the rows that train and those that choose, of those that the teacher labelled.

        Views and paraphrases train, too. What a teacher wrote is read from the labels, which are the only place for it.
        """
        splits, soft = self.splits(), self.soft_labels()
        parts = [splits.train, splits.views(self.task.labelling.views)]
        if self.task.labelling.paraphrases is not None:
            others = {*splits.everything.ids, *parts[1].ids}
            rows = [row for row, name in enumerate(soft.ids) if name not in others]
            ids, texts = tuple(soft.ids[row] for row in rows), tuple(soft.texts[row] for row in rows)
            parts.append(Train(ids, texts, (None,) * len(rows)))
        known = set(soft.ids)
        return _labelled(cast(join(*parts), Train), known), _labelled(splits.validation, known)

    def label_warnings(self) -> list[str]:
        """Return warnings about the soft labels of the finished stage."""
        soft = self.soft_labels()
        warnings = teacher_warnings(soft.probabilities, soft.labels)
        record = json.loads((self.labels.path / RECORD).read_text(encoding="utf-8")).get("paraphrases")
        if record is not None and record["new"] < record["texts"] / 2:
            warnings.append(
                f"labelling.paraphrases added {record['new']:,} rows for {record['texts']:,} texts: the model wrote "
                f"{record['written']:,}, and the others repeat texts of the data or each other; use another model, or "
                "leave them out"
            )
        return warnings

    def weights(self, learn: Train) -> npt.NDArray[np.float64] | None:
        """Return how much each row of `learn` counts in training, [N] with a mean near 1; None: all alike."""
        return None

    def make_student(self, name: str) -> Path:
        """Train a student unless it is up to date, and return its folder.

        Raises StoppedError on Ctrl-C; the epochs so far stay stored.
        """
        from distill.training.checkpoint import Checkpoint
        from distill.training.loop import on_every_process

        self.labels.require("label")
        stage = self.student(name)
        with Checkpoint.of(stage).until_done():
            return on_every_process(stage, lambda: self._train(name), save_student)

    def _finetune_teacher(self, folder: Path, config: LocalConfig, fit: Fit) -> None:
        from distill.training.checkpoint import Checkpoint
        from distill.training.finetune import finetune

        teacher, record = finetune(
            config.model,
            read(fit.data, "gold"),
            self.splits().labels,
            max_tokens=config.max_tokens,
            validation=fit.validation,
            optimisation=fit.optimisation,
            checkpoint=None if self.finetuned_teacher is None else Checkpoint.of(self.finetuned_teacher),
        )
        teacher.save(folder)
        write_atomic(folder / RECORD, json.dumps(record, indent=2) + "\n")

    def _write_labels(self, folder: Path, options: LabellingOptions) -> None:
        session = LabellingSession(self.task, self.teacher_config(), self.splits(), self.root / ANSWERS)
        audited = session.ask(options)
        labelled = audited.labelling
        soft = replace(labelled.soft, terms=terms_of(self.task.teacher))
        record = {"asked": labelled.asked, "refused": labelled.refused, "invalid": labelled.invalid}
        if self.cross_fit is not None and self.task.finetuning is not None:
            gold = read(self.task.finetuning[1].data, "gold")
            soft, record["cross_fitted"] = self.cross_fit.relabel(soft, gold)
        soft.write(folder / LABELS)
        write_atomic(folder / RECORD, json.dumps({**record, **audited.record}, indent=2) + "\n")
        self._asked = labelled.asked

    def _write_embeddings(self, folder: Path) -> None:
        teacher = teachers.create(self.teacher_config(), self.soft_labels().labels)
        embed_all(teacher, join(*self.labelled())).write(folder / EMBEDDINGS)

    def _train(self, name: str) -> DistilledStudent:
        from distill.training.checkpoint import Checkpoint
        from distill.training.distil import distil

        learn, choose = self.labelled()
        weights, soft = self.weights(learn), self.soft_labels()
        checkpoint, config, embeddings = Checkpoint.of(self.student(name)), self.student_config(name), None
        if config.embedding_phase is not None and self.embeddings is not None:
            embeddings = Embeddings.read(self.embeddings.require("label") / EMBEDDINGS)
        return distil(config, soft, learn, choose, f"training {name}", weights, checkpoint, embeddings)


def save_student(distilled: DistilledStudent, folder: Path) -> None:
    """Write a trained student and the record of its training. Raises DistillError as `Student.save` does."""
    distilled.student.save(folder)
    write_atomic(folder / RECORD, json.dumps(distilled.record, indent=2) + "\n")


def _labelled(split: S, known: set[str]) -> S:
    """Return the rows of a split whose soft labels are known."""
    return split.take([row for row, name in enumerate(split.ids) if name in known])
