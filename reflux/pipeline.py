"""The whole way in Python: the stages of a task in order, as `reflux run` takes them."""

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
    """What a run ends with.

    `bundle` is the chosen student, and `bundle.path` the folder to serve. `gap` is what `gap.json` holds, for all
    students; it and `report.md` are in the folder `report`.
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
    """Run all stages of a task, skipping what is up to date and continuing what was interrupted.

    `task` is a task file or a Task, whose paths are relative to the working directory; `folder` is where the stages
    lie, `runs/NAME` by default. `max_usd` bounds what the teacher's calls may cost in this folder, ever. `warn` is told
    what is doubtful about the data and the soft labels, a line each; doubts about students are in `gap["warnings"]`.

    Raises DistillError and its kinds, TeacherError or GateError; each message names the remedy.
    """
    from export.run import ExportRun

    stages = open_run(task, folder)
    exported = ExportRun(stages)
    for finding in stages.make_data().findings:
        warn(finding.message)
    stages.require_models()
    stages.make_labels(LabellingOptions(max_usd))
    for doubt in stages.label_warnings():
        warn(doubt)
    for name in stages.task.students:
        stages.make_student(name)
    bundle = exported.make_bundles()
    return Result(bundle, exported.make_report(), exported.report.path)


def open_run(task: Task | str | Path, folder: str | Path | None = None) -> Run:
    """Give the stages of a task, to be made one by one. Raises TaskError for a task file that does not fit."""
    loaded = task if isinstance(task, Task) else load_task(task)
    return Run(loaded, Path(folder) if folder is not None else Path("runs") / loaded.name)
