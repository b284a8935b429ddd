"""Verbs that bring a bundle to where it is served: `push` and `pull`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from export.bundle.format import Bundle

app = typer.Typer()


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
    if pushed.bundle.manifest.deferred_below is not None:
        _tell("It leaves texts to its teacher: `reflux k8s init` needs --with deferring")
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


def _described(bundle: Bundle) -> str:
    return f"{bundle.manifest.name}, version {bundle.manifest.version}"


def _tell(message: str) -> None:
    typer.echo(message, err=True)
