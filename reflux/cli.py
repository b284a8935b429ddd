"""The command line: one verb per stage, without logic of its own."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reflux.exit_codes import EXIT_CODES, NO_ANSWER, StatusCommand
from reflux.k8s.commands import app as k8s

if TYPE_CHECKING:
    from distill.run import Run
    from export.bundle.format import Bundle
    from export.run import ExportRun

app = typer.Typer(
    help="Distil a teacher classifier into a small student, serve it, and know the distillation gap.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
keys = typer.Typer(help="Keys: of the service's API, and for signing bundles.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(k8s, name="k8s")
console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)

TaskFile = Annotated[Path, typer.Argument(help="The task file (YAML).")]
Output = Annotated[Path | None, typer.Option(help="Folder of the run; `runs/NAME` by default.")]
MaxUsd = Annotated[
    float | None,
    typer.Option("--max-usd", min=0.0, help="The most that the teacher's calls may cost in this run, ever; no limit."),
]


def main() -> None:
    """Run the command. An expected error is printed as a message, with exit code 1, or 130 for Ctrl-C."""
    try:
        app()
    except Exception as error:
        if not _is_expected(error):
            raise
        interrupted = type(error).__name__ == "StoppedError"
        mark = Text("" if interrupted else "error: ", style="bold red")
        Console(stderr=True, soft_wrap=True).print(mark + Text(str(error)))
        sys.exit(130 if interrupted else 1)


@app.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)
    ] = False,
) -> None:
    if show_version:
        typer.echo(f"reflux {version('reflux')}")
        raise typer.Exit


@app.command()
def check(task: TaskFile, output: Output = None) -> None:
    """Read, deduplicate, split and check the data, and list its labels."""
    from distill.evaluation.report import data_lines, label_lines

    run = _run(task, output)
    splits = run.make_data()
    for line in (*data_lines(splits.report), *label_lines(splits.report)):
        console.print(line)
    run.require_models()


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
        _warn(finding.message)
    if dry_run:
        for line in run.forecast():
            console.print(line)
        return
    soft = run.make_labels(LabellingOptions(max_usd, batch, workers if engine == "ray" else 0))
    console.print(f"{len(soft)} texts labelled by {soft.teacher}: {run.labels.path}")
    console.print(run.labelling())
    for warning in run.label_warnings():
        _warn(warning)


@app.command()
def train(task: TaskFile, output: Output = None) -> None:
    """Train every student of the task on the soft labels."""
    run = _run(task, output)
    for name in run.task.students:
        console.print(f"{name}: {run.make_student(name)}")


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
    """Export every student to a bundle that passes the gates, and choose one; or verify a bundle."""
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
        from export.hub import export_hub, require_new

        require_new(folder)
        bundle = Bundle.open(task) if task.is_dir() else _export_run(task, output).make_bundles()
        export_hub(bundle, folder)
        console.print(f"{folder}: {bundle.manifest.name}, version {bundle.manifest.version}, in the layout of the hub")
    elif task is not None:
        exported = _export_run(task, output)
        bundle = exported.make_bundles()
        console.print(f"{bundle.path}: {bundle.manifest.name}, {bundle.manifest.measured['reason']}")
        for line in exported.promises():
            console.print(line)
        for warning in exported.ceiling_warnings():
            _warn(warning)
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
        f"{made.bundle.path}: with it the teacher is asked about {made.calls:.0%} of the texts that the same interval "
        "needs without it; serve with REFLUX_SHADOW__WITNESS set to this folder"
    )


@app.command()
def evaluate(task: TaskFile, output: Output = None) -> None:
    """Judge every bundle on the test split: the distillation gap, with intervals."""
    exported = _export_run(task, output)
    _print_gap(exported.make_report(), exported.report.path)


@app.command()
def run(task: TaskFile, output: Output = None, max_usd: MaxUsd = None) -> None:
    """All stages, from data to bundle and report, skipping what is up to date."""
    from reflux import pipeline

    result = pipeline.run(task, output, max_usd=max_usd, warn=_warn)
    _print_gap(result.gap, result.report)
    console.print(f"bundle to serve: {result.bundle.path}")


@app.command()
def serve(
    bundle: Annotated[Path | None, typer.Argument(help="The bundle to serve; REFLUX_BUNDLE by default.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Serve a bundle over HTTP. Every other setting comes from the environment (REFLUX_...)."""
    from service.serve import main as serve_bundle

    given = {"bundle": bundle, "host": host, "port": port}
    serve_bundle(**{name: value for name, value in given.items() if value is not None})


@app.command()
def worker(
    bundle: Annotated[Path | None, typer.Argument(help="The bundle that is served; REFLUX_BUNDLE by default.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Ask the teacher for services with REFLUX_SHADOW__ASK=false, through the database that they share."""
    from service.serve import work

    given = {"bundle": bundle, "host": host, "port": port}
    work(**{name: value for name, value in given.items() if value is not None})


@app.command()
def migrate() -> None:
    """Create the tables of REFLUX_SHADOW__DATABASE, or bring them to this version. Twice changes nothing."""
    from service.errors import StartupError
    from service.settings import load_shadow_settings
    from service.shadow.shared.schema import migrate as migrate_tables
    from service.shadow.stores import make_database

    settings = load_shadow_settings()
    if settings.database is None:
        raise StartupError("there is no database to migrate; set REFLUX_SHADOW__DATABASE")
    database = make_database(settings)
    before, after = migrate_tables(database)
    database.close()
    done = "is at" if before == after else f"was at schema {before} and is at" if before else "has new tables of"
    console.print(f"{database.place} {done} schema {after}")


@app.command(cls=StatusCommand)
def status(
    url: Annotated[str, typer.Argument(help="Address of the service, such as http://localhost:8080.")],
    api_key_file: Annotated[
        Path | None, typer.Option(help="File that holds the key alone; REFLUX_API_KEY by default.")
    ] = None,
    window: Annotated[
        Literal["1h", "6h", "1d", "7d", "since"] | None, typer.Option(help="Print this window alone; all by default.")
    ] = None,
    variant: Annotated[
        Literal["stable", "candidate"], typer.Option(help="Whose verdict, where a candidate is served.")
    ] = "stable",
    as_json: Annotated[bool, typer.Option("--json", help="Print the body of GET /gap instead.")] = False,
) -> None:
    """May the student of a running service stay? Exit code: 0 stay, 1 watch, 2 leave, 3 blind, 4 no answer."""
    from reflux.status import NoAnswerError, ask, next_command, parse, read_key, show

    try:
        body = ask(url, read_key(api_key_file), window=window or "since", variant=variant)
        found = parse(body)
    except NoAnswerError as error:
        Console(stderr=True, soft_wrap=True).print(Text("error: ", style="bold red") + Text(str(error)))
        raise typer.Exit(NO_ANSWER) from error
    if as_json:
        typer.echo(json.dumps(body, ensure_ascii=False, indent=2))
    else:
        command = next_command(found, url, variant=variant, key_file=api_key_file)
        show(found, console, window=window, next_command=command)
    raise typer.Exit(EXIT_CODES[found.verdict])


@app.command("gap-report", cls=StatusCommand)
def gap_report(
    url: Annotated[str, typer.Argument(help="Address of the service, such as http://localhost:8080.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write gap-DATE.md and gap-DATE.json into, the latter with texts.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File that holds the key alone; REFLUX_API_KEY by default.")
    ] = None,
    variant: Annotated[
        Literal["stable", "candidate"], typer.Option(help="Whose gap, where a candidate is served.")
    ] = "stable",
) -> None:
    """Print a report of a week's gap in Markdown, without texts. Exit code: as of `reflux status`."""
    from reflux.gap_report import GapReport
    from reflux.status import NoAnswerError, read_key

    try:
        report = GapReport.fetch(url, read_key(api_key_file), variant=variant)
        if output is not None:
            report.write(output)
    except NoAnswerError as error:
        Console(stderr=True, soft_wrap=True).print(Text("error: ", style="bold red") + Text(str(error)))
        raise typer.Exit(NO_ANSWER) from error
    typer.echo(report.markdown(), nl=False)
    raise typer.Exit(EXIT_CODES[report.status.verdict])


@app.command(cls=StatusCommand)
def replay(
    candidate: Annotated[Path, typer.Argument(help="The candidate's bundle.")],
    current: Annotated[Path, typer.Option(help="The bundle that is served now, and whose log it is.")],
    store: Annotated[Path | None, typer.Option(help="The shadow outbox, a file; may be in use.")] = None,
    database: Annotated[
        str | None,
        typer.Option(envvar="REFLUX_SHADOW__DATABASE", show_envvar=True, help="Or the shared store, postgresql://…"),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(envvar="REFLUX_SHADOW__DATABASE_PASSWORD_FILE", help="File that holds the database's password."),
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="How much more often the candidate may disagree with the teacher.")
    ] = 0.003,
    rows: Annotated[Literal["eval", "all"], typer.Option(help="Texts that are never trained on, or all.")] = "eval",
    days: Annotated[float | None, typer.Option(min=0.0, help="Use the texts of the last days only; all.")] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the outcome to this file, as JSON.")] = None,
) -> None:
    """May a candidate replace the served bundle, by its log? Exit code: 0 pass, 2 fail, 3 inconclusive, 4 no answer."""
    from export.bundle.format import Bundle
    from reflux import replay as replaying

    try:
        found = replaying.replay(
            Bundle.open(candidate),
            Bundle.open(current),
            replaying.source(store, None if store else database, password_file),
            margin=margin,
            rows=rows,
            days=days,
        )
        if output is not None:
            output.write_text(json.dumps(replaying.to_json(found), indent=2) + "\n")
    except Exception as error:
        if not _is_expected(error):
            raise
        Console(stderr=True, soft_wrap=True).print(Text("error: ", style="bold red") + Text(str(error)))
        raise typer.Exit(NO_ANSWER) from error
    replaying.show(found, console)
    raise typer.Exit(replaying.EXIT_CODES[found.gate])


@app.command(cls=StatusCommand)
def canary(
    prometheus: Annotated[str, typer.Option(help="Address of Prometheus, with the rules of k8s/monitoring.")],
    gates: Annotated[Path, typer.Option(help="File of the queries, k8s/components/canary-plain/gates.yaml.")],
    source: Annotated[str, typer.Option(help="Where the candidate is pulled from.")],
    digest: Annotated[str, typer.Option(help="The candidate's digest, as `reflux push` printed it.")],
    replicas: Annotated[list[int], typer.Option(min=1, help="Pods of the canary; repeat it for further steps.")],
    count: Annotated[int, typer.Option(min=1, help="So many times in a row must all gates pass, in each step.")] = 3,
    interval: Annotated[float, typer.Option(min=0.01, help="Seconds between looks.")] = 300.0,
    hours: Annotated[float, typer.Option(min=0.0, help="The longest that a step may take.")] = 24.0,
    kubernetes: Annotated[str, typer.Option(help="Address of the Kubernetes API.")] = "https://kubernetes.default.svc",
    account: Annotated[Path, typer.Option(help="Folder of the pod's token, namespace and ca.crt.")] = Path(
        "/var/run/secrets/kubernetes.io/serviceaccount"
    ),
) -> None:
    """Serve a candidate, and promote or end it by its live gap. Exit code: 0 pass, 2 fail, 3 inconclusive, 4 error."""
    from reflux import canary as canaries
    from reflux.cluster import Cluster

    try:
        with canaries.ending_on_sigterm():
            phase = canaries.run(
                Cluster(kubernetes, account),
                prometheus,
                canaries.read_gates(gates),
                replicas,
                (source, digest),
                canaries.Patience(count, interval, hours * 3600.0),
                console.print,
            )
    except Exception as error:
        if not _is_expected(error):
            raise
        Console(stderr=True, soft_wrap=True).print(Text("error: ", style="bold red") + Text(str(error)))
        raise typer.Exit(NO_ANSWER) from error
    raise typer.Exit(canaries.EXIT_CODES[phase])


@app.command()
def push(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    target: Annotated[str, typer.Argument(help="oci://REGISTRY/REPOSITORY[:TAG], a folder, s3://… or gs://….")],
    sign_key: Annotated[Path | None, typer.Option(help="Sign the digest with this key (`reflux keys pair`).")] = None,
) -> None:
    """Push a bundle to a registry, a folder or an object store, and print its digest."""
    from export.delivery.transfer import push as push_bundle

    pushed = push_bundle(bundle, target, sign_key=sign_key)
    _tell(f"{target}: {_described(pushed.bundle)}{'' if sign_key is None else ', signed'}")
    typer.echo(pushed.digest)  # alone on standard output, for scripts


@app.command()
def pull(
    source: Annotated[
        str, typer.Argument(help="oci://REGISTRY/REPOSITORY[:TAG][@DIGEST], a folder, s3://… or gs://….")
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to write; a bundle that is there is replaced in one step.")],
    digest: Annotated[str | None, typer.Option(help="The digest to accept, as `reflux push` printed it.")] = None,
    verify_key: Annotated[Path | None, typer.Option(help="Accept what the owner of this public key signed.")] = None,
) -> None:
    """Pull a bundle into a folder, check it, and print its digest."""
    from export.delivery.transfer import pull as pull_bundle

    pulled = pull_bundle(source, folder, digest=digest, verify_key=verify_key)
    _tell(f"{folder}: {_described(pulled.bundle)}{'' if pulled.new else ', was there already'}")
    typer.echo(pulled.digest)


@keys.command("pair")
def make_pair(
    file: Annotated[Path, typer.Argument(help="New file for the private key; the public one goes to FILE.pub.")],
) -> None:
    """Make a pair of keys, with which bundles are signed (push) and verified (pull)."""
    from export.delivery.signature import new_keys

    public = new_keys(file)
    console.print(f"private key, for `reflux push --sign-key`: {file}")
    console.print(f"public key, for `reflux pull --verify-key`: {public}")


@keys.command("new")
def make_key(
    name: Annotated[str, typer.Argument(help="Name of the key's owner, for the log and the metrics.")],
    rate: Annotated[float | None, typer.Option(help="The most texts a second; no limit.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Also allow the administrative routes.")] = False,
) -> None:
    """Make an API key, and the line for the file of REFLUX_API_KEYS, which does not hold the key."""
    from service.auth.keyfile import key_line, new_key

    key = new_key()
    options = ["admin"] * admin + ([] if rate is None else [f"rate={rate:g}/s"])
    line = key_line(name, key, ",".join(options))
    console.print(f"key, shown this once: {key}")
    console.print(f"line for the file: {line}")


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
    rows, blank = classify_file(Bundle.open(bundle), given, target)
    without = f" ({blank} of them blank, without a label)" if blank else ""
    console.print(f"{rows} texts classified{without}: {target}")


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


def _described(bundle: Bundle) -> str:
    return f"{bundle.manifest.name}, version {bundle.manifest.version}"


def _tell(message: str) -> None:
    typer.echo(message, err=True)


def _warn(message: str) -> None:
    typer.echo(f"warning: {message}", err=True)


def _print_gap(gap: dict[str, Any], folder: Path) -> None:
    from distill.evaluation.report import summary

    header, rows = summary(gap)
    table = Table(*header, title=f"Distillation gap of {gap['task']}, 95 % intervals")
    for row in rows:
        table.add_row(*row)
    console.print(table, soft_wrap=False)
    for name, student in gap["students"].items():
        console.print(f"{name}: {student['measured']['reason']}")
    for warning in gap.get("warnings", ()):
        _warn(warning)
    console.print(f"{folder}/report.md, {folder}/gap.json")


def _is_expected(error: Exception) -> bool:
    """Whether an error's message is meant for the user, or comes from the operating system.

    Compares names, since importing the classes would load every stage.
    """
    named = {
        "DistillError",
        "TeacherError",
        "BundleError",
        "DeliveryError",
        "ReplayError",
        "CanaryError",
        "ClusterError",
        "GateError",
        "InferenceError",
        "StartupError",
        "ShadowError",
        "OSError",
    }
    return any(kind.__name__ in named for kind in type(error).__mro__)
