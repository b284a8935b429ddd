"""Verbs of a running service: serve it, ask the teacher for it, and read its gap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from reflux.commands.common import console, ending_without_answer
from reflux.exit_codes import EXIT_CODES, StatusCommand

app = typer.Typer()


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
    from reflux.status import ask, next_command, parse, read_key, show

    with ending_without_answer():
        body = ask(url, read_key(api_key_file), window=window or "since", variant=variant)
        found = parse(body)
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
    from reflux.status import read_key

    with ending_without_answer():
        report = GapReport.fetch(url, read_key(api_key_file), variant=variant)
        if output is not None:
            report.write(output)
    typer.echo(report.markdown(), nl=False)
    raise typer.Exit(EXIT_CODES[report.status.verdict])


@app.command(cls=StatusCommand)
def anchors(
    bundle: Annotated[Path, typer.Argument(envvar="REFLUX_BUNDLE", help="The bundle that is served.")],
) -> None:
    """Ask REFLUX_SHADOW__TEACHER once about the bundle's anchors. Exit code: 0 same, 2 changed, 3 unknown, 4 error."""
    from export.bundle.format import Bundle
    from reflux.anchors import EXIT_CODES as STATES
    from reflux.anchors import ask_anchors
    from service.settings import load_shadow_settings

    with ending_without_answer():
        found = ask_anchors(Bundle.open(bundle), load_shadow_settings())
    for line in found.lines():
        console.print(line)
    raise typer.Exit(STATES[found.state])
