"""The cascades of a run: the one that it builds by itself, and those that are asked for.

Which stages pay, and what a cascade promises, is decided in `build_cascade`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distill.errors import DistillError
from distill.run import Run
from distill.stages import Stage, write_atomic
from export.build import Baseline
from export.build_cascade import JOINED, Measured, build_cascade, find_cascade, measure_stages, stages_for
from export.bundle.format import Bundle
from export.bundle.stages import TEACHER
from export.bundle.target import alone, require_replaceable

CASCADE = "cascade.json"
_ONE_STUDENT = "the task has one student"


@dataclass(frozen=True, slots=True)
class Cascades:
    """Builds the cascades of a run.

    `students` opens the students' bundles, by name; `chosen` gives the stage of the bundle to serve, which must be made
    before the run's own cascade; `baseline` reads what the students are compared with.
    """

    run: Run
    students: Callable[[], dict[str, Bundle]]
    chosen: Callable[[], Stage]
    baseline: Callable[[], Baseline]

    @property
    def stage(self) -> Stage:
        """The cascade that ends with the chosen student, or why there is none."""
        inputs = {"chosen": self.chosen().fingerprint, "cascade": self.run.task.cascade.model_dump(mode="json")}
        return Stage(self.run.root / "cascade", inputs)

    @property
    def possible(self) -> bool:
        """Whether there is anything to pass texts on to: another student, or the teacher."""
        return len(self.run.task.students) > 1 or self.run.task.cascade.defer is not None

    def ensure(self) -> None:
        """Build the run's own cascade if it is worth while, and remove an earlier one if it is not."""
        self.stage.ensure(self._build)

    def made(self) -> tuple[Bundle | None, str]:
        """Return the run's own cascade, None if there is none, and why it was built or not."""
        if not self.possible:
            return None, _ONE_STUDENT
        record = json.loads((self.stage.require("export") / CASCADE).read_text(encoding="utf-8"))
        return Bundle.open(self.stage.path) if record["built"] else None, record["reason"]

    def make(
        self,
        stages: Sequence[str],
        folder: Path | None = None,
        margin: float | None = None,
        *,
        defer: float | None = None,
    ) -> tuple[Bundle, Measured]:
        """Build a cascade of `stages`, the cheapest first: names of students, or folders of bundles with their labels.

        With `defer`, the teacher is its last stage, and the whole agrees with it on at least this share of all
        requests; otherwise it loses at most `margin` against its last stage, by default that of the task. It is written
        to `folder`, `cascades/NAME` by default, in place of a bundle that is there. Raises DistillError when no cut-off
        can be certified, the stages do not fit together, or the folder holds a stage or anything else than a bundle.
        """
        bundles, task = self._bundles(stages), self.run.task
        names = [bundle.manifest.name for bundle in bundles]
        folder = folder or self.run.root / "cascades" / JOINED.join(names if defer is None else [*names, TEACHER])
        path = require_replaceable(folder, keep=[bundle.path for bundle in bundles])
        baseline = self.baseline()
        if margin is None and defer is None:
            margin = task.cascade.margin
        measured = measure_stages(bundles, baseline, margin=margin, defer=defer)
        with alone(path):
            bundle = build_cascade(measured, path, baseline=baseline, decision=task.decision)
        return replace(bundle, path=folder), measured

    def _bundles(self, stages: Sequence[str]) -> list[Bundle]:
        own = self.students()
        for stage in stages:
            if stage not in own and not Path(stage).exists():
                raise DistillError(
                    f"{stage}: is neither a student of the task, which has {', '.join(own)}, nor a bundle's folder"
                )
        return [own[stage] if stage in own else Bundle.open(stage) for stage in stages]

    def _build(self, folder: Path) -> None:
        """Build the cascade if the task does not forbid it and it is worth while; write down why or why not."""
        settings, own = self.run.task.cascade, self.students()
        measured, reason = None, "cascade.build is false" if self.possible else _ONE_STUDENT
        if settings.build and self.possible:
            last = own[Bundle.open(self.chosen().path).manifest.name]
            named = settings.stages
            stages = [own[name] for name in named] if named else stages_for(last, [*own.values()])
            measured, reason = find_cascade(
                stages, self.baseline(), settings.margin, defer=settings.defer, always=named is not None
            )
        if measured is not None:
            build_cascade(measured, folder, baseline=self.baseline(), decision=self.run.task.decision)
        record = {"built": measured is not None, "reason": reason}
        write_atomic(folder / CASCADE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
