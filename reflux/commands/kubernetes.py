"""The options of `reflux k8s init`: what is not given is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    help="Kubernetes: an overlay for a bundle, a registry and a teacher of your own.", no_args_is_help=True
)


@app.command("init")
def init(
    name: Annotated[str, typer.Argument(help="Name of the overlay, and of its namespace unless one is given.")],
    bundle: Annotated[
        str, typer.Option(help="oci://…, s3://…, gs://…, as given to `reflux push`, or claim:NAME.", prompt="Bundle")
    ],
    image: Annotated[
        str, typer.Option(help="The image of Reflux: REGISTRY/NAME:TAG or REGISTRY/NAME@DIGEST.", prompt="Reflux image")
    ],
    teacher: Annotated[
        str, typer.Option(help="A task file whose teacher is meant, or its configuration in JSON.", prompt="Teacher")
    ],
    database: Annotated[
        str, typer.Option(help="postgresql://USER@HOST:PORT/NAME, without a password.", prompt="Database")
    ],
    digest: Annotated[str | None, typer.Option(help="The bundle's digest, as `reflux push` printed it.")] = None,
    delivery: Annotated[
        Literal["image-volume", "init-container"] | None,
        typer.Option(
            help="How pods get a bundle of a registry; image-volume, for Kubernetes 1.33 and later, by default."
        ),
    ] = None,
    device: Annotated[Literal["cpu", "gpu"], typer.Option(help="Where the graph runs.")] = "cpu",
    namespace: Annotated[str | None, typer.Option(help="Namespace of all objects.")] = None,
    components: Annotated[
        list[str] | None, typer.Option("--with", help="Component to add, such as monitoring or keda; repeatable.")
    ] = None,
    clients: Annotated[
        list[str] | None,
        typer.Option("--from", help="Namespace whose pods may send requests; ingress-nginx by default; repeatable."),
    ] = None,
    monitoring: Annotated[str | None, typer.Option(help="Namespace of Prometheus; monitoring by default.")] = None,
    keys_secret: Annotated[
        str | None, typer.Option(help="Secret with the file `keys`; requests then need a key.")
    ] = None,
    teacher_secret: Annotated[str | None, typer.Option(help="Secret with the teacher's key; reflux-teacher.")] = None,
    database_secret: Annotated[
        str | None, typer.Option(help="Secret with the file `password`; reflux-database.")
    ] = None,
    registry_secret: Annotated[
        str | None, typer.Option(help="Secret of the registry's login, of type kubernetes.io/dockerconfigjson.")
    ] = None,
    verify_key: Annotated[
        Path | None, typer.Option(help="Public key of who signs bundles, which `reflux pull` then asks for.")
    ] = None,
    distill_image: Annotated[
        str | None, typer.Option(help="An image with torch, for --with redistill (RUNTIME=cpu,distill).")
    ] = None,
    candidates: Annotated[
        str | None, typer.Option(help="Where --with redistill pushes candidates, as `reflux push`; nowhere.")
    ] = None,
    runbook_url: Annotated[str | None, typer.Option(help="Page that alerts lead to, with --with monitoring.")] = None,
    manifests: Annotated[Path, typer.Option(help="The folder k8s of a checkout of Reflux.")] = Path("k8s"),
    output: Annotated[Path | None, typer.Option(help="Folder to write; MANIFESTS/overlays/NAME.")] = None,
) -> None:
    """Write a kustomize overlay, to be applied with `kubectl apply -k`."""
    from reflux.k8s.overlay import Overlay
    from reflux.k8s.sources import (
        BundleSource,
        read_teacher,
        require_candidates,
        require_database,
        require_image,
        require_name,
        require_page,
    )

    named = {
        "--namespace": namespace,
        "--monitoring": monitoring,
        "--keys-secret": keys_secret,
        "--teacher-secret": teacher_secret,
        "--database-secret": database_secret,
        "--registry-secret": registry_secret,
    }
    for option, given in [*named.items(), *(("--from", client) for client in clients or ())]:
        if given is not None:
            require_name(given, option)
    overlay = Overlay(
        name=require_name(name, "NAME"),
        namespace=namespace or name,
        bundle=BundleSource.parse(bundle, digest, delivery),
        image=require_image(image),
        teacher=read_teacher(teacher),
        database=require_database(database),
        device=device,
        components=components or (),
        clients=clients or (),
        monitoring=monitoring,
        keys_secret=keys_secret,
        teacher_secret=teacher_secret,
        database_secret=database_secret,
        registry_secret=registry_secret,
        verify_key=verify_key,
        runbook_url=None if runbook_url is None else require_page(runbook_url),
        distill_image=None if distill_image is None else require_image(distill_image, "--distill-image"),
        candidates=None if candidates is None else require_candidates(candidates),
    )
    folder = output or manifests / "overlays" / name
    overlay.write(folder, manifests)
    typer.echo(f"{folder} is written. Apply it:")
    typer.echo(f"  kubectl apply -k {folder}")
    if secrets := overlay.secrets():
        typer.echo("Its pods do not start without Secrets. With each value in a file, make those that do not exist:")
    for secret, files in secrets.items():
        given = " ".join(f"--from-file={file}" for file in files)
        typer.echo(f"  kubectl --namespace {overlay.namespace} create secret generic {secret} {given}")
    for note in overlay.notes():
        typer.echo(note)
