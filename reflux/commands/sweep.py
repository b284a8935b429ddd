"""The verb that compares a ladder of students and their cascades, each as it would be served."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from reflux.commands.common import console, warn
from reflux.commands.stages import MaxUsd, Output, TaskFile
from reflux.exit_codes import NONE_FITS

app = typer.Typer()

_WIDTH = 150
"""Characters of the table, which a narrower terminal breaks; squeezed, its names and numbers would be cut."""


@app.command()
def sweep(
    task: TaskFile,
    output: Output = None,
    max_usd: MaxUsd = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(min=0.0, help="The most that the median text may take; by default the task's budget.latency_ms."),
    ] = None,
    cost_per_million: Annotated[
        float | None, typer.Option(min=0.0, help="The most dollars that a million texts may cost; no limit.")
    ] = None,
) -> None:
    """Train a ladder of students and its cascades, measure each as exported, and pick the best within a limit.

    Exit code: 0, or 3 if none is within the limit.
    """
    from distill.labelling.session import LabellingOptions
    from export.sweep.front import Limits
    from export.sweep.report import table
    from export.sweep.sweep import Sweep
    from reflux.pipeline import open_run

    run = open_run(task, output)
    for finding in run.make_data().findings:
        warn(finding.message)
    made = Sweep(run)
    for warning in made.warnings():
        warn(warning)
    run.make_labels(LabellingOptions(max_usd))
    limits = Limits(run.task.budget.latency_ms if latency_ms is None else latency_ms, cost_per_million)
    result = made.make(limits, warn)
    header, rows = table(result)
    shown = Table(title=f"Sweep of {result['task']}: ms on one core, validation split; * is on the front")
    for at, column in enumerate(header):
        shown.add_column(column, no_wrap=at == 0, justify="left" if at == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    Console(width=max(console.width, _WIDTH), markup=False, highlight=False).print(shown)
    for name, why in result["not_built"].items():
        console.print(f"{name} was not built: {why}")
    console.print(result["verdict"])
    console.print(f"{made.folder}/sweep.md, {made.folder}/sweep.json")
    if result["chosen"] is not None:
        chosen = next(one for one in result["candidates"] if one["name"] == result["chosen"])
        console.print(f"bundle to serve: {run.root / chosen['folder']}")
    elif limits.given:
        raise typer.Exit(NONE_FITS)
