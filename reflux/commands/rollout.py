"""Verbs that judge a candidate: by the log before it is served, and by its live gap while it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from reflux.commands.common import console, ending_without_answer
from reflux.exit_codes import GATE_EXIT_CODES, StatusCommand

app = typer.Typer()


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

    with ending_without_answer():
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
    replaying.show(found, console)
    raise typer.Exit(GATE_EXIT_CODES[found.gate])


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

    with ending_without_answer(), canaries.ending_on_sigterm():
        found = canaries.run(
            Cluster(kubernetes, account),
            prometheus,
            canaries.read_gates(gates),
            replicas,
            (source, digest),
            canaries.Patience(count, interval, hours * 3600.0),
            console.print,
        )
    raise typer.Exit(GATE_EXIT_CODES[found])
