"""Verbs that make a candidate from the log, and judge one: by the log, and by its live gap while it is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from reflux.commands.common import console, ending_without_answer, print_error
from reflux.commands.stages import Output, TaskFile
from reflux.exit_codes import GATE_EXIT_CODES, TEACHER_CHANGED, StatusCommand

app = typer.Typer()

Store = Annotated[Path | None, typer.Option(help="The shadow outbox, a file; may be in use.")]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(envvar="REFLUX_SHADOW__DATABASE", help="Or the shared store, postgresql://…"),
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(envvar="REFLUX_SHADOW__DATABASE_PASSWORD_FILE", help="File that holds the database's password."),
]
Margin = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="How much more often the candidate may disagree with the teacher.")
]
Days = Annotated[float | None, typer.Option(min=0.0, help="Use the texts of the last days only; all.")]


@app.command(cls=StatusCommand)
def replay(
    candidate: Annotated[Path, typer.Argument(help="The candidate's bundle.")],
    current: Annotated[Path, typer.Option(help="The bundle that is served now, and whose log it is.")],
    store: Store = None,
    database: DatabaseUrl = None,
    password_file: PasswordFile = None,
    margin: Margin = 0.003,
    rows: Annotated[Literal["eval", "all"], typer.Option(help="Texts that are never trained on, or all.")] = "eval",
    days: Days = None,
    output: Annotated[Path | None, typer.Option(help="Also write the outcome to this file, as JSON.")] = None,
) -> None:
    """May a candidate replace the served bundle, by its log? Exit code: 0 pass, 2 fail, 3 inconclusive, 4 no answer."""
    from export.bundle.format import Bundle
    from reflux import replay as replaying

    with ending_without_answer():
        found = replaying.replay(
            Bundle.open(candidate),
            Bundle.open(current),
            replaying.source(store, database, password_file),
            margin=margin,
            rows=rows,
            days=days,
        )
        if output is not None:
            output.write_text(json.dumps(replaying.to_json(found), indent=2) + "\n")
    replaying.show(found, console)
    raise typer.Exit(GATE_EXIT_CODES[found.gate])


@app.command(cls=StatusCommand)
def redistill(
    task: TaskFile,
    output: Output = None,
    current: Annotated[
        Path | None,
        typer.Option(
            envvar="REFLUX_BUNDLE", help="The bundle that is served now, and whose log it is; that of the run."
        ),
    ] = None,
    store: Store = None,
    database: DatabaseUrl = None,
    password_file: PasswordFile = None,
    min_rows: Annotated[
        int,
        typer.Option(
            min=1,
            help="Fewer texts answered since the last candidate that passed or failed are nothing to do. A tenth is "
            "held out to judge, and 200 of those decide, so that more than 2000 are worth a training.",
        ),
    ] = 2000,
    margin: Margin = 0.003,
    days: Days = None,
    student: Annotated[
        str | None, typer.Option(help="The student to train; the served one, or of a cascade all stages.")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(envvar="CANDIDATE_TARGET", help="Push a candidate that does not fail, as `push`."),
    ] = None,
    sign_key: Annotated[Path | None, typer.Option(help="Sign its digest with this key (`reflux keys pair`).")] = None,
) -> None:
    """Train the served student anew on the shadow log, too, and judge the candidate, which is in RUN/redistill.

    Where a cascade is served, its stages are trained anew, and a cascade of them is the candidate.

    Exit code: 0 pass, or nothing to do; 2 fail, 3 inconclusive, 4 error, 5 the teacher has changed.
    """
    from export.bundle.format import Bundle
    from export.delivery.address import require_place
    from export.delivery.errors import DeliveryError
    from export.delivery.signature import read_private_key
    from reflux import pipeline
    from reflux.redistill.redistill import Options, TeacherChangedError
    from reflux.redistill.redistill import redistill as make_candidate
    from reflux.replay import source

    with ending_without_answer():
        if push:  # found wrong now, not after a training
            require_place(push)
        if sign_key is not None:
            if not push:
                raise DeliveryError(
                    f"--sign-key {sign_key}: nothing is signed without --push; add it, or leave this out"
                )
            read_private_key(sign_key)
        run = pipeline.open_run(task, output)
        try:
            done = make_candidate(
                run,
                Bundle.open(current or run.root / "bundle"),
                lambda: source(store, database, password_file),
                Options(min_rows, margin, student, days, push or None, sign_key),
            )
        except TeacherChangedError as error:
            print_error(error)
            raise typer.Exit(TEACHER_CHANGED) from error
    if isinstance(done, str):
        console.print(f"nothing to do: {done}")
        return
    console.print(f"{done.judged.gate.upper()}: {done.judged.message}")
    console.print(done.graphs)
    if done.note is not None:
        console.print(f"note: {done.note}")
    console.print(f"candidate: {done.candidate.path}, version {done.candidate.manifest.version}; report: {done.report}")
    if done.digest is not None:
        console.print(f"pushed to {push}: {done.digest}")
    raise typer.Exit(GATE_EXIT_CODES[done.judged.gate])


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

    patience = canaries.Patience(count, interval, hours * 3600.0)
    with ending_without_answer(), canaries.ending_on_sigterm():
        canaries.require_options(prometheus, (source, digest), patience)
        queries = canaries.read_gates(gates)
        cluster = Cluster(kubernetes, account)
        found = canaries.run(cluster, prometheus, queries, replicas, (source, digest), patience, console.print)
    raise typer.Exit(GATE_EXIT_CODES[found])
