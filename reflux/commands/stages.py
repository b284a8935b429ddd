"""Verbs that need no service: the stages of a task, all of them on the demo, and `classify` for a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from reflux.commands.common import console, warn
from reflux.exit_codes import CHECK_EXIT_CODES

if TYPE_CHECKING:
    from distill.run import Run
    from export.run import ExportRun

app = typer.Typer()

TaskFile = Annotated[Path, typer.Argument(help="The task file (YAML).")]
Output = Annotated[Path | None, typer.Option(help="Folder of the run; `runs/NAME` by default.")]
MaxUsd = Annotated[
    float | None,
    typer.Option("--max-usd", min=0.0, help="The most that the teacher's calls may cost in this run, ever; no limit."),
]


@app.command()
def check(
    task: TaskFile,
    output: Output = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Also write all that was found to this file.")
    ] = None,
) -> None:
    """Check the data, and say whether it is enough. Exit code: 0 enough or more would help, 3 too little, 1 error."""
    from distill.evaluation.report.sections.data import data_lines, label_lines
    from distill.evaluation.report.sections.preset import preset_lines
    from distill.presets import preset_keys
    from distill.stages import write_atomic
    from distill.sufficiency import report
    from distill.sufficiency.check import check as check_data

    run = _run(task, output)
    splits = run.make_data()
    for line in (*data_lines(splits.report), *label_lines(splits.report)):
        console.print(line)
    if run.task.preset is not None:
        for line in preset_lines(run.task.preset, preset_keys(run.task)):
            console.print(line)
    run.require_models()
    for warning in run.sweep_warnings(run.task.swept):
        warn(warning)
    found = check_data(run)
    for line in report.lines(found):
        console.print(line)
    if json_file is not None:
        write_atomic(json_file, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    raise typer.Exit(CHECK_EXIT_CODES[found["verdict"]])


@app.command()
def label(
    task: TaskFile,
    output: Output = None,
    max_usd: MaxUsd = None,
    batch: Annotated[
        bool,
        typer.Option("--batch", help="Use the vendor's batch API: cheaper, and done within a day or so."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the expected cost and time, and make no call.")
    ] = False,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Make the calls in this process, or in workers of a Ray cluster.")
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Workers of the Ray cluster.")] = 2,
) -> None:
    """Ask the teacher for soft labels. No text with a stored answer is asked about again."""
    from distill.labelling.session import LabellingOptions

    run = _run(task, output)
    for finding in run.make_data().findings:
        warn(finding.message)
    if dry_run:
        for line in run.forecast():
            console.print(line)
        return
    soft = run.make_labels(LabellingOptions(max_usd, batch, workers if engine == "ray" else 0))
    console.print(f"{len(soft)} texts labelled by {soft.teacher}: {run.labels.path}")
    console.print(run.labelling())
    for warning in run.label_warnings():
        warn(warning)


@app.command()
def train(task: TaskFile, output: Output = None) -> None:
    """Train every student of the task on the soft labels."""
    run = _run(task, output)
    for name in run.task.students:
        console.print(f"{name}: {run.make_student(name)}")
    if run.task.compared:
        from distill.comparisons import Comparisons

        Comparisons(run).make()


@app.command()
def export(
    task: Annotated[
        Path | None, typer.Argument(help="The task file (YAML); with `--format hub`, or a bundle's folder.")
    ] = None,
    folder: Annotated[Path | None, typer.Argument(help="With `--format hub`: the new folder to write.")] = None,
    output: Output = None,
    verify: Annotated[Path | None, typer.Option(help="Check an existing bundle on this machine instead.")] = None,
    form: Annotated[
        Literal["bundle", "hub"],
        typer.Option("--format", help="`hub` writes the chosen bundle as transformers.js and optimum load it."),
    ] = "bundle",
) -> None:
    """Export every student to a bundle that passes the gates, and choose one; or with --verify check a bundle."""
    if (form == "hub") != (folder is not None):
        raise typer.BadParameter("give a folder to write with --format hub, and only with it")
    if verify is not None and (task is not None or folder is not None):
        raise typer.BadParameter("--verify checks a bundle and takes nothing else")
    if verify is not None:
        from export.bundle.verify import verify as verify_bundle

        bundle = verify_bundle(verify)
        console.print(f"{verify}: version {bundle.manifest.version} is complete and gives the expected answers")
    elif task is not None and folder is not None:
        from export.bundle.format import Bundle
        from export.bundle.target import require_new
        from export.hub import export_hub

        require_new(folder)
        bundle = Bundle.open(task) if task.is_dir() else _export_run(task, output).make_bundles()
        export_hub(bundle, folder)
        console.print(f"{folder}: {bundle.manifest.name}, version {bundle.manifest.version}, in the layout of the hub")
    elif task is not None and task.is_dir():
        raise typer.BadParameter(f"{task} is a folder; give a task file, or `--verify {task}` to check a bundle")
    elif task is not None:
        exported = _export_run(task, output)
        bundle = exported.make_bundles()
        console.print(f"{bundle.path}: {bundle.manifest.name}, {bundle.manifest.measured['reason']}")
        cascade, reason = exported.cascades.made()
        if cascade is not None:
            console.print(f"{cascade.path}: {cascade.manifest.name}, {reason}")
        for line in exported.promises():
            console.print(line)
        for warning in exported.warnings():
            warn(warning)
    else:
        raise typer.BadParameter("give a task file, or --verify with a bundle")


@app.command()
def witness(
    task: TaskFile,
    output: Output = None,
    student: Annotated[str | None, typer.Option(help="The student that is served; the chosen one by default.")] = None,
    by: Annotated[str | None, typer.Option(help="The better student; the best other one by default.")] = None,
) -> None:
    """Make a better student the witness of the served one, so that the live gap needs fewer calls to the teacher."""
    made = _export_run(task, output).make_witness(student, by)
    console.print(
        f"{made.bundle.path}: with it the teacher is asked about {100 * made.calls:.0f} % of the texts that the same "
        "interval needs without it; serve with REFLUX_SHADOW__WITNESS set to this folder"
    )


@app.command()
def cascade(
    task: TaskFile,
    stages: Annotated[
        list[str],
        typer.Argument(
            help="Names of students, or folders of bundles, the cheapest first; one is enough with --defer."
        ),
    ],
    output: Output = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write, in place of a bundle that is there; `cascades/NAME` in the run by default.",
            show_default=False,
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Agreement with the teacher that may be lost, in (0, 1), as 0.002 for 0.2 points."),
    ] = None,
    defer: Annotated[
        float | None,
        typer.Option(
            help="Let the teacher answer what no student is sure about, so that so large a share of all requests "
            "agrees with it, in (0, 1), as 0.99.",
        ),
    ] = None,
) -> None:
    """Let students answer together: each the texts that it is sure about, the rest is passed on.

    With --defer the last to answer is the teacher itself. Without --margin and --defer, those of the task hold.
    """
    from export.build_cascade import cascade_warnings, teacher_warnings

    exported = _export_run(task, output)
    if margin is None and defer is None:
        defer = exported.task.cascade.defer
    bundle, measured = exported.cascades.make(stages, to, margin, defer=defer)
    console.print(f"{bundle.path}: {measured.summary}")
    console.print(measured.cut_offs.guarantee)
    for warning in (*teacher_warnings(measured.stages), *cascade_warnings(bundle.manifest)):
        warn(warning)


@app.command()
def evaluate(task: TaskFile, output: Output = None) -> None:
    """Judge every bundle on the test split: the distillation gap, with intervals."""
    exported = _export_run(task, output)
    _print_gap(exported.make_report(), exported.report.path)


@app.command()
def run(task: TaskFile, output: Output = None, max_usd: MaxUsd = None) -> None:
    """All stages, from data to bundle and report, skipping what is up to date."""
    from reflux import pipeline

    result = pipeline.run(task, output, max_usd=max_usd, warn=warn)
    _print_gap(result.gap, result.report)
    console.print(f"bundle to serve: {result.bundle.path}")


@app.command()
def classify(
    bundle: Annotated[Path, typer.Argument(help="The bundle to ask.")],
    source: Annotated[Path, typer.Argument(help="CSV, JSONL or Parquet file of texts.")],
    target: Annotated[Path, typer.Argument(help="CSV, JSONL or Parquet file to write, by its ending.")],
    text: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    identifier: Annotated[str | None, typer.Option("--id", help="Column of the ids; row numbers by default.")] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(help="Character between the fields of a CSV file, or `tab`; detected by default."),
    ] = None,
) -> None:
    """Classify a file on this machine, without a service. Rows with a blank text get no label."""
    from pydantic import ValidationError

    from distill.data.sources import delimiter_found
    from distill.sections import FileSource
    from export.bundle.format import Bundle
    from export.classify import classify_file

    try:
        given = FileSource(path=source, text=text, id=identifier, delimiter=delimiter)
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint="--delimiter") from error
    if (found := delimiter_found(given)) is not None:
        console.print(found)
    rows, blank, deferred = classify_file(Bundle.open(bundle), given, target)
    without = f" ({blank} of them blank, without a label)" if blank else ""
    console.print(f"{rows} texts classified{without}: {target}")
    if deferred:
        left = "1 text was" if deferred == 1 else f"{deferred} texts were"
        console.print(f"{left} left to the teacher, who is not asked here; the last student answered (see `deferred`)")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    keep: Annotated[bool, typer.Option("--serve", help="Leave the service running until Ctrl-C.")] = False,
) -> None:
    """Run all steps on the built-in support desk; needs no key and no other file."""
    from reflux.demo import demo as run_demo

    run_demo(output, console, keep=keep)


def _run(task: Path, output: Path | None) -> Run:
    from reflux.pipeline import open_run

    return open_run(task, output)


def _export_run(task: Path, output: Path | None) -> ExportRun:
    from export.run import ExportRun

    return ExportRun(_run(task, output))


def _print_gap(gap: dict[str, Any], folder: Path) -> None:
    from distill.evaluation.report.sections.students import summary

    header, rows = summary(gap)
    table = Table(*header, title=f"Distillation gap of {gap['task']}, 95 % intervals")
    for row in rows:
        table.add_row(*row)
    console.print(table, soft_wrap=False)
    for name, student in gap["students"].items():
        console.print(f"{name}: {student['measured']['reason']}")
    if (cascade := gap.get("cascade")) is not None:
        built = f"cascade {cascade['name']} ({folder.parent / 'cascade'})" if cascade["name"] else "no cascade"
        console.print(f"{built}: {cascade['reason']}")
    for warning in gap.get("warnings", ()):
        warn(warning)
    console.print(f"{folder}/report.html, {folder}/report.md, {folder}/gap.json")
