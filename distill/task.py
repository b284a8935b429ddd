"""Task: the YAML file that describes a distillation. An unknown key is an error that names the key.

Paths in a task are relative to the task file. This module reads no data and loads no model.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, field_validator, model_validator

from distill import teachers
from distill.data.values import label_of
from distill.decision import Decision, require_names
from distill.errors import TaskError
from distill.presets import PresetName, require_teacher, with_preset
from distill.sections import Paraphrases, Section, Source, Views, added, walk
from distill.strict_yaml import MAX_CHARACTERS, read_yaml
from distill.students.config import EncoderStudent, NgramsStudent, StaticStudent, StudentConfig, has_token_table
from distill.task_errors import explain
from distill.teachers.local import Fit, LocalConfig
from distill.teachers.recorded import RecordedConfig

TEACHER = "teacher"
"""As a student's `model`: start from the layers and the head of the fine-tuned teacher."""


class Data(Section):
    """The pool to distil on (`train`), and the rows that choose (`validation`) and judge (`test`).

    `validation` is a source, or the share of `train` to hold out. Texts of `unlabelled` join the pool; their labels, if
    they have some, are not read. Near duplicates have a Jaccard similarity of
    character 5-grams of at least `near_duplicate`.
    """

    train: Source
    test: Source
    validation: Annotated[float, Field(gt=0, lt=0.5)] | Source = 0.1
    unlabelled: Source | None = added(None)
    near_duplicate: float = Field(default=0.9, gt=0.5, le=1.0)
    seed: int = 0


Student = Annotated[StudentConfig, Field(discriminator="family")]


class Sweep(Section):
    """Students that `reflux sweep` trains beside the task's own, in place of its default ladder."""

    students: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")], Student] = Field(default={})


class Calibration(Section):
    """Gold rows to calibrate the teacher's probabilities; `auto` chooses the method on held-out rows."""

    data: Source
    method: Literal["auto", "temperature", "vector"] = "auto"


class Labelling(Section):
    """What the teacher is asked besides the texts of the data.

    Gold rows calibrate it, `self_agreement` rows of the pool are asked about twice, and students train on `views` and
    `paraphrases`, too.
    """

    calibration: Calibration | None = None
    self_agreement: int = Field(default=0, ge=0)
    views: Views | None = added(None)
    paraphrases: Paraphrases | None = added(None)


class Gates(Section):
    """Limits that an exported student must meet before it may be served.

    `parity` is the largest difference of a logit between the fp32 graph and the trained student; `agreement` the least
    share of validation rows on which a graph below 32 bits must choose the same label as the fp32 graph.
    """

    parity: float = Field(default=1e-3, gt=0)
    agreement: float = Field(default=0.99, gt=0, le=1)


class Prune(Section):
    """The shares of an encoder's attention heads and feed-forward neurons to remove, those that matter least.

    The pruned student is then trained for some `epochs`, to answer the training texts as the whole one does.
    """

    heads: float | None = Field(default=None, gt=0, lt=1)
    feed_forward: float | None = Field(default=None, gt=0, lt=1)
    epochs: int = Field(default=1, ge=0)
    learning_rate: float = Field(default=1e-4, gt=0)

    @property
    def name(self) -> str:
        """The two shares in percent, such as `25-12.5`."""
        return "-".join(f"{100 * (share or 0):g}" for share in (self.heads, self.feed_forward))

    @model_validator(mode="after")
    def _anything(self) -> Prune:
        if self.heads is None and self.feed_forward is None:
            raise ValueError("nothing to remove; give the share of `heads`, of `feed_forward`, or of both")
        return self


class Export(Section):
    """`variant` `auto` takes the fastest graph that passes the gates; `int8…` and `fp16` fail if theirs does not pass.

    `fp32` takes the faster of the 32-bit graphs, `plain` the one without fused operators, which TensorRT needs. With
    `trim_vocabulary`, tokens that the training texts do not have are dropped if that passes its gate. Each of
    `prune` makes a smaller form of an encoder, whose graphs compete with those of the whole one.
    """

    trim_vocabulary: bool = False
    prune: tuple[Prune, ...] = added(())
    variant: Literal["auto", "fp32", "plain", "int8", "int8-qdq", "int8-dynamic", "fp16"] = "auto"
    gates: Gates = Gates()

    @field_validator("prune")
    @classmethod
    def _different(cls, value: tuple[Prune, ...]) -> tuple[Prune, ...]:
        name, times = Counter(each.name for each in value).most_common(1)[0] if value else ("", 0)
        if times > 1:
            raise ValueError(f"two entries are called {name}, after their shares in percent; give each pair once")
        return value


class Budget(Section):
    """Limits for serving. `latency_ms` is for the median of one text on one core of this machine."""

    latency_ms: float | None = Field(default=None, gt=0)
    usd_per_hour: float = Field(default=0.05, ge=0)


class Cascade(Section):
    """Students that answer together: each the texts that it is sure about, the others are passed on to the next.

    `stages` names them, the cheapest first; by default they are those that pay. `margin` is by how much the cascade may
    agree less with the teacher than its last stage; by default the smaller of 0.002 and 0.005 that the
    validation rows can certify. With `defer` the teacher itself is the last stage, after one student or more, and the
    cascade agrees with it on at least this share of all requests. With `build: false` no run builds one; `reflux
    cascade` keeps to `margin` and `defer` all the same.
    """

    build: bool = True
    stages: tuple[str, ...] | None = Field(default=None, min_length=1)
    margin: float | None = Field(default=None, gt=0, lt=1)
    defer: float | None = Field(default=None, gt=0, lt=1)


class Comparisons(Section):
    """The students to train in other ways too, for comparison; by default the `static` and `ngrams` ones."""

    students: tuple[str, ...] | None = Field(default=None, min_length=1)


class Task(Section):
    """A whole task. `labels`, if not given, are the gold labels of the data; `preset` sets keys that it does not."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    preset: PresetName | None = added(None)
    data: Data
    teacher: SerializeAsAny[BaseModel]
    students: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")], Student] = Field(min_length=1)
    labels: tuple[str, ...] | None = Field(default=None, min_length=2)
    labelling: Labelling = Labelling()
    export: Export = Export()
    budget: Budget = Budget()
    decision: Decision | None = None
    cascade: Cascade = Cascade()
    comparisons: Comparisons | None = None
    sweep: Sweep | None = None

    @property
    def all_students(self) -> dict[str, StudentConfig]:
        """The students, and those that are trained for a sweep alone, by their keys, such as `sweep.students.small`."""
        own: dict[str, StudentConfig] = {f"students.{name}": student for name, student in self.students.items()}
        return own | self.swept

    @property
    def swept(self) -> dict[str, StudentConfig]:
        """The students of the section `sweep`, by their keys."""
        students = {} if self.sweep is None else self.sweep.students
        return {f"sweep.students.{name}": student for name, student in students.items()}

    @property
    def compared(self) -> tuple[str, ...]:
        """The names of the students to train in other ways too."""
        if self.comparisons is None:
            return ()
        cheap = (name for name, student in self.students.items() if isinstance(student, (StaticStudent, NgramsStudent)))
        return tuple(cheap) if self.comparisons.students is None else self.comparisons.students

    @property
    def finetuning(self) -> tuple[LocalConfig, Fit] | None:
        """The teacher to fine-tune and its `fit` section, or None if the task has none."""
        teacher = self.teacher
        return (teacher, teacher.fit) if isinstance(teacher, LocalConfig) and teacher.fit is not None else None

    @property
    def _answers_new_texts(self) -> bool:
        """Whether the teacher can be asked about texts that the data has not; members of an ensemble count."""
        return not any(isinstance(value, RecordedConfig) for _, value in walk(self.teacher))

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, value: Any) -> Any:
        return with_preset(value) if isinstance(value, dict) else value

    @field_validator("teacher", mode="before")
    @classmethod
    def _typed_teacher(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("expected a mapping with a `kind`")
        try:
            return teachers.parse(value)
        except teachers.TeacherError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _teacher_to_start_from(self) -> Task:
        for key, student in self.all_students.items():
            if student.model == TEACHER and self.finetuning is None:
                raise ValueError(f"{key}.model: `teacher` needs a local teacher with a `fit`; name a model")
        if both := set(self.students) & set(() if self.sweep is None else self.sweep.students):
            raise ValueError(f"sweep.students: the task has a student {min(both)!r} already; choose another name")
        return self

    @model_validator(mode="after")
    def _names_that_are_free(self) -> Task:
        key = next((key for key in ("students.teacher", "sweep.students.teacher") if key in self.all_students), None)
        if key is not None:
            raise ValueError(f"{key}: this name is kept for the teacher's bundle; choose another")
        return self

    @model_validator(mode="after")
    def _students_that_can_be_trimmed(self) -> Task:
        for key, student in self.all_students.items():
            if self.export.trim_vocabulary and not has_token_table(student):
                raise ValueError(
                    f"export.trim_vocabulary: {key} is of the family {student.family}, which has no table of tokens to "
                    "trim; leave out the key, or this student"
                )
        return self

    @model_validator(mode="after")
    def _encoders_to_prune(self) -> Task:
        if self.export.prune and not any(isinstance(each, EncoderStudent) for each in self.students.values()):
            families = ", ".join(sorted({each.family for each in self.students.values()}))
            raise ValueError(
                f"export.prune: only students of the family encoder can be pruned, and the task has {families}; "
                "remove the key"
            )
        return self

    @model_validator(mode="after")
    def _preset_for_its_teacher(self) -> Task:
        require_teacher(self.preset, getattr(self.teacher, "kind", None), by_hand=self._answers_new_texts)
        return self

    @model_validator(mode="after")
    def _views_that_can_be_labelled(self) -> Task:
        if self.labelling.views is not None and not self._answers_new_texts:
            raise ValueError(
                "labelling.views: a recorded teacher has no answers to new texts; remove it, or use another teacher"
            )
        return self

    @model_validator(mode="after")
    def _paraphrases_that_can_be_written(self) -> Task:
        kind = getattr(self.teacher, "kind", None)
        if self.labelling.paraphrases is not None and not hasattr(teachers.teacher_class(kind), "paraphraser"):
            raise ValueError(
                f"labelling.paraphrases: a teacher of kind {kind} writes no texts; remove it, or use one of kind "
                "openai or anthropic"
            )
        return self

    @model_validator(mode="after")
    def _embeddings_that_can_be_computed(self) -> Task:
        kind = getattr(self.teacher, "kind", None)
        for key, student in self.all_students.items():
            if student.embedding_phase is not None and not hasattr(teachers.teacher_class(kind), "embed"):
                raise ValueError(
                    f"{key}.embedding_phase: a teacher of kind {kind} has no hidden states; remove it, or use a "
                    "teacher of kind local or bundle"
                )
        return self

    @model_validator(mode="after")
    def _cascade_of_students(self) -> Task:
        for name in self.cascade.stages or ():
            if name not in self.students:
                raise ValueError(f"cascade.stages: the task has no student {name!r}; name its students")
        if self.cascade.defer is not None and self.cascade.margin is not None:
            raise ValueError("cascade.margin: with cascade.defer there is no margin to keep; leave out one of them")
        if self.cascade.defer is None and len(self.cascade.stages or ("", "")) < 2:
            raise ValueError("cascade.stages: name two students or more, or give cascade.defer")
        if not self.cascade.build and self.cascade.stages is not None:
            raise ValueError("cascade.stages: with cascade.build false no cascade has them; leave out one of the keys")
        counted = Counter(self.cascade.stages or ())
        if twice := next((name for name, times in counted.items() if times > 1), None):
            raise ValueError(f"cascade.stages: {twice!r} is named twice; name each stage once")
        return self

    @model_validator(mode="after")
    def _compared_students(self) -> Task:
        unknown = [name for name in self.compared if name not in self.students]
        if unknown:
            known = ", ".join(self.students)
            raise ValueError(f"comparisons.students: there is no student {unknown[0]!r}, but {known}; name one of them")
        if self.comparisons is not None and not self.compared:
            raise ValueError("comparisons: no student is `static` or `ngrams`; name some in comparisons.students")
        return self

    @model_validator(mode="after")
    def _decision_about_labels(self) -> Task:
        if self.decision is not None and self.labels is not None:
            require_names(self.decision, self.labels)
        return self

    @field_validator("labels")
    @classmethod
    def _labels_as_in_data(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        labels = tuple(label for label in map(label_of, value) if label is not None)
        if len(labels) < len(value):
            raise ValueError("a label is empty; remove it")
        if len(set(labels)) < len(labels):
            twice = Counter(labels).most_common(1)[0][0]
            raise ValueError(f"the label {twice!r} is given twice; remove one")
        return labels


def load_task(path: str | Path) -> Task:
    """Read a task file. Raises TaskError naming the file, the key and what was expected there."""
    file = Path(path)
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(MAX_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{file}: cannot be read ({error}); give the path of a task file in YAML") from error
    try:
        document = read_yaml(text)
    except TaskError as error:
        raise TaskError(f"{file}: {error}") from error
    if not isinstance(document.data, dict):
        raise TaskError(f"{file}: expected a mapping with the keys name, data, teacher and students")
    try:
        return Task.model_validate(_resolve(document.data, file.parent))
    except ValidationError as error:
        raise TaskError("\n".join(f"{file}: {line}" for line in explain(error, document))) from error


_PATH_KEYS = ("path", "logits", "texts", "key_file")
_OWN_NAMES = ("descriptions", "groups", "headers", "extra_body")  # their keys are the user's own, and not paths


def _resolve(value: Any, base: Path, key: str = "") -> Any:
    """Make the paths of a task absolute: they are relative to the task's folder `base`, and `~` is the home folder."""
    if isinstance(value, dict):
        return {name: item if name in _OWN_NAMES else _resolve(item, base, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, base, key) for item in value]
    if isinstance(value, str) and (key in _PATH_KEYS or (key == "model" and value.startswith((".", "/", "~")))):
        return str((base / os.path.expanduser(value)).resolve())
    return value
