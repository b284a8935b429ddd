"""`reflux keys`: keys of the API of the service, and for signing bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reflux.commands.common import console

app = typer.Typer(help="Keys: of the service's API, and for signing bundles.", no_args_is_help=True)


@app.command("pair")
def make_pair(
    file: Annotated[Path, typer.Argument(help="New file for the private key; the public one goes to FILE.pub.")],
) -> None:
    """Make a pair of keys, with which bundles are signed (push) and verified (pull)."""
    from export.delivery.signature import new_keys

    public = new_keys(file)
    console.print(f"private key, for `reflux push --sign-key`: {file}")
    console.print(f"public key, for `reflux pull --verify-key`: {public}")


@app.command("new")
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
