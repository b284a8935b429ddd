"""Comparisons: students of a run, trained in other ways too, to see in the report what the soft labels are worth.

`comparisons/STUDENT/WAY` in the run's folder; none of them is exported. A task without `comparisons` has none.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from distill.data.splits import Train, Validation
from distill.data.views import inherit_gold
from distill.run import Run, save_student
from distill.stages import Stage
from distill.students.pretrained import weights_version
from distill.task import TEACHER, Student

if TYPE_CHECKING:
    from distill.training.checkpoint import Checkpoint
    from distill.training.comparisons import Way
    from distill.training.distil import DistilledStudent


class Comparisons:
    """The students of a `Run` that are trained in other ways too."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def ways(self, name: str) -> list[Way]:
        """Return the other ways in which a student is trained; none for a student that the task does not compare.

        Those on gold labels need some in the pool and in the validation split.
        """
        if name not in self.run.task.compared:
            return []
        ways: list[Way] = ["hard"]
        if all(len(split.with_gold()) for split in self.run.labelled()):
            ways += ["gold", "human"]
            if self._base(name) is not None:
                ways.append("pretrained")
        return ways

    def stage(self, name: str, way: Way) -> Stage:
        """A student trained in another way."""
        run, base = self.run, self._base(name) if way == "pretrained" else None
        inputs = {**run.student(name).inputs, "way": way, "data": run.data.fingerprint}
        if way != "hard" and self._altered:
            inputs["gold"] = "inherited"  # earlier releases trained on fewer rows
        if way == "human":
            inputs["conditions"] = "the student's"  # earlier releases had others
        if base is not None:
            inputs |= {"student": base.model_dump(mode="json"), "weights": weights_version(base.model)}
        return Stage(run.root / "comparisons" / name / way, inputs)

    def rows(self, way: str) -> tuple[Train, Validation]:
        """Return the rows that train a student in a way, `soft` being the students' own, and those that choose.

        With gold labels these are all that have one, views and paraphrases of them included, so that as many rows as
        possible are those of the soft labels. `pretrained` has no paraphrases, since the teacher wrote them.
        """
        learn, choose = self.run.labelled()
        if way in ("soft", "hard"):
            return learn, choose
        return inherit_gold(learn, self.run.splits().train, paraphrases=way != "pretrained"), choose.with_gold()

    def make(self) -> None:
        """Train what the task compares, unless it is up to date.

        Raises StoppedError on Ctrl-C; the epochs so far stay stored.
        """
        from distill.training.checkpoint import Checkpoint
        from distill.training.loop import on_every_process

        for name in self.run.task.compared:
            self.run.student(name).require("train")
            for way in self.ways(name):
                stage = self.stage(name, way)
                checkpoint = Checkpoint.of(stage)
                with checkpoint.until_done():
                    on_every_process(stage, partial(self._train, name, way, checkpoint), save_student)

    def _train(self, name: str, way: Way, checkpoint: Checkpoint) -> DistilledStudent:
        from distill.training.comparisons import train_on_labels, train_on_people

        run, soft = self.run, self.run.soft_labels()
        learn, choose = self.rows(way)
        description = f"training {name} for comparison, {way}"
        config = run.student_config(name)
        if way == "human":
            return train_on_people(run.student(name).path, config, soft, learn, choose, description, checkpoint)
        begun = self._base(name) if way == "pretrained" else None
        return train_on_labels(way, begun or config, soft, learn, choose, description, checkpoint)

    @property
    def _altered(self) -> bool:
        """Whether students also train on altered copies of texts."""
        section = self.run.task.labelling
        return section.views is not None or section.paraphrases is not None

    def _base(self, name: str) -> Student | None:
        """Return a student that begins at the teacher, as it begins at the model that the teacher was fitted from."""
        config, finetuning = self.run.task.students[name], self.run.task.finetuning
        if config.model != TEACHER or finetuning is None:
            return None
        return config.model_copy(update={"model": finetuning[0].model})
