"""Run a sweep: train the ladder and its cascades, measure each as exported, and pick the best within the limits.

Each step is a stage of the run's folder, so a sweep that was interrupted goes on where it was: students and bundles lie
where `reflux run` has them, cascades and measurements under `sweep`. Times depend on the bundle and the machine alone;
quality is judged anew where labels change. A candidate that fails does not stop the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.splits import Validation, gold_classes
from distill.errors import DistillError, StoppedError, one_line
from distill.evaluation.gap import compare
from distill.run import Run
from distill.stages import Stage, fingerprint, write_atomic
from export.build_cascade import JOINED, stages_for
from export.bundle.format import Bundle, cpu_features
from export.cut_offs import NotCertifiedError
from export.evaluate import answers
from export.run import ExportRun
from export.selection import evenly_spaced
from export.sweep.front import Candidate, Limits, best_within, pareto
from export.sweep.ladder import ladder
from export.sweep.measure import measure_bundle
from export.sweep.report import write

FOLDER, RESULT = "sweep", "sweep.json"
SCHEMA = 1
_TEXTS = 200


class Sweep:
    """The sweep of a run's task. Its result is `sweep.json`, with `sweep.md` and a figure, in the folder `sweep`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.students = ladder(run.task)
        self.folder = run.root / FOLDER
        self.not_built: dict[str, str] = {}

    def warnings(self) -> list[str]:
        """Warn of students that are trained for the sweep alone and will fail."""
        task = self.run.task
        rungs = {name: student for name, student in self.students.items() if name not in task.students}
        return self.run.sweep_warnings(rungs if task.sweep is None else task.swept)

    def make(self, limits: Limits, tell: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
        """Make all candidates whose stages are not up to date, and return the content of `sweep.json`.

        The labels must be there. `tell` is called with a line about each candidate that failed. Raises DistillError
        when every candidate fails.
        """
        self.not_built = {}
        found = [self._attempt(name, partial(self._student, name), tell) for name in self.students]
        found += self._cascades(found, tell)
        measured = [one for one in found if "failed" not in one]
        if not measured:
            raise DistillError(f"no candidate of the sweep could be made; the first: {found[0]['failed']}")
        candidates = [_candidate(one) for one in measured]
        front = {one.name for one in pareto(candidates)}
        for one in measured:
            one["front"] = one["name"] in front
        best = best_within(candidates, limits) if limits.given else None
        result = {
            "schema": SCHEMA,
            "task": self.run.task.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "teacher": self.run.soft_labels().teacher,
            "cpu": cpu_features(),
            "validation_rows": measured[0]["rows"],
            "candidates": found,
            "not_built": self.not_built,
            "limits": asdict(limits),
            "chosen": best and best.name,
            "verdict": _verdict(limits, best, candidates),
        }
        write_atomic(self.folder / RESULT, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        write(result, self.folder)
        return result

    def _attempt(self, name: str, make: Callable[[], Bundle], tell: Callable[[str], None]) -> dict[str, Any]:
        """Make and measure a candidate; if it fails, say why."""
        try:
            return self._measure(name, make())
        except StoppedError:
            raise
        except Exception as error:  # any: a candidate that fails must not stop the others
            reason = one_line(error)
            tell(f"{name} failed: {reason}")
            return {"name": name, "failed": reason}

    def _exporting(self, names: list[str]) -> ExportRun:
        """Return the run of some of the students, in the same folder."""
        task = self.run.task.model_copy(update={"students": {name: self.students[name] for name in names}})
        return ExportRun(Run(task, self.run.root))

    def _student(self, name: str) -> Bundle:
        exporting = self._exporting([name])
        exporting.run.make_student(name)
        return exporting.make_bundle(name)

    def _cascades(self, found: list[dict[str, Any]], tell: Callable[[str], None]) -> list[dict[str, Any]]:
        """Make the cascade that ends with each student of the front, from the faster ones of the front that pay."""
        by_name = {one["name"]: one for one in found if "failed" not in one}
        front = [self._bundle(by_name[one.name]) for one in pareto([_candidate(one) for one in by_name.values()])]
        made = []
        for at, last in enumerate(front):
            stages = stages_for(last, front[:at])
            names = [bundle.manifest.name for bundle in stages]
            if len(stages) < 2:
                continue
            name = JOINED.join(names)
            try:
                stage = self._cascade_stage(name, stages)
                stage.ensure(partial(self._write_cascade, names))
            except NotCertifiedError as error:
                self.not_built[name] = one_line(error)
                continue
            except Exception as error:  # as in `_attempt`
                made.append({"name": name, "failed": one_line(error)})
                tell(f"{name} failed: {one_line(error)}")
                continue
            made.append(self._attempt(name, partial(Bundle.open, stage.path), tell))
        return made

    def _write_cascade(self, names: list[str], folder: Path) -> None:
        self._exporting(names).cascades.make(names, folder)

    def _cascade_stage(self, name: str, stages: list[Bundle]) -> Stage:
        inputs = {
            "stages": [bundle.manifest.version for bundle in stages],
            "labels": fingerprint(self.run.label_inputs),
            "margin": self.run.task.cascade.margin,
            "decision": self.run.task.decision and self.run.task.decision.model_dump(mode="json"),
        }
        return Stage(self.folder / "cascades" / name, inputs)

    def _measure(self, name: str, bundle: Bundle) -> dict[str, Any]:
        """Return what `sweep.json` says about a candidate."""
        one = {"schema": SCHEMA, "bundle": bundle.manifest.version}
        labels = fingerprint(self.run.label_inputs)
        measured = {
            **self._kept("measured", name, {**one, "cpu": cpu_features()}, lambda: self._times(bundle)),
            **self._kept("quality", name, {**one, "labels": labels}, lambda: self._quality(bundle)),
        }
        cost = measured["alone"]["mean"] / 3600 * self.run.task.budget.usd_per_hour * 1000
        return {
            "name": name,
            "family": bundle.manifest.family,
            "folder": str(bundle.path.relative_to(self.run.root)),
            "bundle": bundle.manifest.version,
            "variant": bundle.manifest.variant,
            "reason": bundle.manifest.measured["reason"],
            "bytes": bundle.manifest.measured["bytes"],
            "usd_per_million": cost,
            **measured,
        }

    def _kept(self, what: str, name: str, inputs: dict[str, Any], find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what `find` finds of a candidate, from its stage if that is up to date."""
        stage, file = Stage(self.folder / what / name, inputs), f"{what}.json"
        stage.ensure(lambda folder: write_atomic(folder / file, json.dumps(find(), indent=2) + "\n"))
        found: dict[str, Any] = json.loads((stage.path / file).read_text(encoding="utf-8"))
        return found

    def _validation(self) -> Validation:
        """The validation rows that the teacher labelled."""
        validation = self.run.splits().validation
        known = set(self.run.soft_labels().ids)
        return validation.take([row for row, name in enumerate(validation.ids) if name in known])

    def _times(self, bundle: Bundle) -> dict[str, Any]:
        return measure_bundle(bundle, evenly_spaced(self._validation().texts, _TEXTS))

    def _quality(self, bundle: Bundle) -> dict[str, Any]:
        """Compare a candidate's answers on validation with the teacher's labels, and with gold where there is some."""
        soft, validation = self.run.soft_labels(), self._validation()
        gold = gold_classes(validation, soft.labels) if validation.has_gold else None
        teacher = soft.probabilities[soft.rows_of(validation.ids)]
        given = np.stack([answer.probabilities for answer in answers(bundle, validation.texts)])
        gap = compare(teacher, given, soft.labels, gold).as_dict()
        kept = ("agreement", "retention", "student_accuracy", "teacher_accuracy")
        return {"rows": len(validation), **{key: gap[key] for key in kept}}

    def _bundle(self, one: dict[str, Any]) -> Bundle:
        return Bundle.open(self.run.root / one["folder"])


def _candidate(one: dict[str, Any]) -> Candidate:
    alone = one["alone"]
    return Candidate(one["name"], one["agreement"]["value"], alone["p50"], one["usd_per_million"])


def _verdict(limits: Limits, best: Candidate | None, candidates: list[Candidate]) -> str:
    """Say which candidate is the best within the limits, or that none is within them."""
    if not limits.given:
        front = ", ".join(one.name for one in pareto(candidates))
        return f"On the front, the fastest first: {front}. Give a limit to have the best within it picked."
    if best is not None:
        return (
            f"Within {limits}, {best.name} agrees best with the teacher: {100 * best.agreement:.1f} % of the "
            f"validation texts, {best.milliseconds:.2f} ms for the median text, "
            f"${best.usd_per_million:.3f} per million."
        )
    fastest = min(candidates, key=lambda one: one.milliseconds)
    cheapest = min(candidates, key=lambda one: one.usd_per_million)
    return (
        f"No candidate is within {limits}: the fastest, {fastest.name}, takes {fastest.milliseconds:.2f} ms, and the "
        f"cheapest, {cheapest.name}, costs ${cheapest.usd_per_million:.3f} per million. Raise the limit or add a "
        "smaller student."
    )
