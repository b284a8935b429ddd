"""Which model a request names: in a path, or in the key `model` of its body."""

from __future__ import annotations

from export.bundle.format import Manifest
from service.errors import NotFoundError
from service.inference.registry import Models

ANY = frozenset({"default", "default/not-specified"})
"""Names by which clients of infinity ask for whichever model there is."""

_SHOWN = 64


def served(models: Models) -> dict[str, Manifest]:
    """The manifest of each variant. Raises NotReadyError before there is one."""
    models.choose()
    return {variant: models.choose(variant).manifest for variant in models.versions}


def variant_of(models: Models, name: str, version: str | None = None) -> str | None:
    """The variant that a name and a version stand for, None where they fit every one.

    Raises NotFoundError for what is not served, NotReadyError.
    """
    manifests = served(models)
    fitting = [
        variant
        for variant, manifest in manifests.items()
        if name == manifest.name and version in (None, manifest.version)
    ]
    if not fitting:
        asked = name[:_SHOWN] if version is None else f"{name[:_SHOWN]}, version {version[:_SHOWN]},"
        there = " and ".join(f"{one.name}, version {one.version}" for one in manifests.values())
        raise NotFoundError(f"the model {asked} is not served here; there is {there}")
    return None if len(fitting) == len(manifests) else fitting[0]


def variant_in_body(models: Models, name: str | None) -> str | None:
    """The same for the key `model`, which may be absent or ask for any."""
    return None if name is None or name in ANY else variant_of(models, name)
