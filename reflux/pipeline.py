"""Run all stages of a task from Python, as `reflux run` does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.labelling.session import LabellingOptions
from distill.run import Run
from distill.task import Task, load_task

if TYPE_CHECKING:
    from export.bundle.format import Bundle


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run.

    `bundle` is the chosen student, and `bundle.path` the folder to serve. `gap` is the content of `gap.json`, for all
    students; that file, `report.html` and `report.md` are in the folder `report`.
    """

    bundle: Bundle
    gap: dict[str, Any]
    report: Path


def run(
    task: Task | str | Path,
    folder: str | Path | None = None,
    *,
    max_usd: float | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Result:
    """Run all stages of a task. Stages that are up to date are skipped, and interrupted labelling continues.

    `task` is a task file, or a Task, whose paths are relative to the working directory. `folder` holds the stages,
    `runs/NAME` by default. `max_usd` limits what all of the teacher's calls in this folder cost, earlier ones included.
    `warn` is called with each warning about the data and the soft labels; those about students are in
    `gap["warnings"]`.

    Raises DistillError and its subclasses, TeacherError or GateError; each message names the remedy.
    """
    from export.run import ExportRun

    stages = open_run(task, folder)
    exported = ExportRun(stages)
    for finding in stages.make_data().findings:
        warn(finding.message)
    stages.require_models()
    stages.make_labels(LabellingOptions(max_usd))
    for warning in stages.label_warnings():
        warn(warning)
    for name in stages.task.students:
        stages.make_student(name)
    exported.comparisons.make()
    bundle = exported.make_bundles()
    return Result(bundle, exported.make_report(), exported.report.path)


def open_run(task: Task | str | Path, folder: str | Path | None = None) -> Run:
    """Return the stages of a task, to be made one by one. Raises TaskError for an invalid task file."""
    loaded = task if isinstance(task, Task) else load_task(task)
    return Run(loaded, Path(folder) if folder is not None else Path("runs") / loaded.name)
