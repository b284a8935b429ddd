"""The command line: assembles the verbs of `reflux.commands`, and prints expected errors as messages."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from reflux.commands import delivery, keys, kubernetes, rollout, serving, stages, start, sweep
from reflux.commands.common import is_expected, print_error

app = typer.Typer(
    help="Distil a teacher classifier into a small student, serve it, and know the distillation gap.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for group in (start, stages, sweep, serving, rollout, delivery):
    app.add_typer(group.app)
app.add_typer(keys.app, name="keys")
app.add_typer(kubernetes.app, name="k8s")


def main() -> None:
    """Run the command. An expected error is printed as a message, with exit code 1, or 130 for Ctrl-C."""
    try:
        app()
    except Exception as error:
        if not is_expected(error):
            raise
        interrupted = type(error).__name__ == "StoppedError"
        print_error(error, "" if interrupted else "error: ")
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
