"""Which variant a request's model name stands for, in its path or in the key `model` of its body."""

from __future__ import annotations

from export.bundle.format import Manifest
from service.errors import NotFoundError
from service.inference.registry import Models

ANY = frozenset({"default", "default/not-specified"})
"""Names by which clients of infinity ask for any model."""

_SHOWN = 64
"""Characters of a client's model name that a message repeats."""


def served(models: Models) -> dict[str, Manifest]:
    """Return the manifest of each variant. Raises NotReadyError if nothing is served yet."""
    models.choose()
    return {variant: models.choose(variant).manifest for variant in models.versions}


def variant_of(models: Models, name: str, version: str | None = None) -> str | None:
    """Return the variant with this name and version, or None if all variants match.

    Raises NotFoundError if none matches, NotReadyError if nothing is served yet.
    """
    manifests = served(models)
    matching = [
        variant
        for variant, manifest in manifests.items()
        if name == manifest.name and version in (None, manifest.version)
    ]
    if not matching:
        asked = name[:_SHOWN] if version is None else f"{name[:_SHOWN]}, version {version[:_SHOWN]},"
        there = " and ".join(f"{one.name}, version {one.version}" for one in manifests.values())
        raise NotFoundError(f"the model {asked} is not served here; there is {there}")
    return None if len(matching) == len(manifests) else matching[0]


def variant_in_body(models: Models, name: str | None) -> str | None:
    """Do the same for the key `model` of a body, which may be absent or ask for any model."""
    return None if name is None or name in ANY else variant_of(models, name)
