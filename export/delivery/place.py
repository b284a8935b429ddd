"""What a place that holds bundles can do. `registry_place` and `folder_place` implement it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from export.delivery.image import Image
from export.delivery.signature import Signature


class Place(Protocol):
    """A place for one bundle. Every method raises DeliveryError."""

    def send(self, image: Image) -> None:
        """Store the files of a bundle, its manifest last, so that whoever finds that finds all."""

    def signatures(self, digest: str) -> list[Signature]:
        """Return the signatures of a digest that are stored here."""

    def sign(self, digest: str, signatures: list[Signature]) -> None:
        """Store the signatures of a digest in place of those that are here."""

    def digest(self, wanted: str | None) -> str | None:
        """Return the digest of the bundle here, or None where it takes the files to know. `wanted` is asked for."""

    def fetch(self, folder: Path) -> None:
        """Copy the files of the bundle into an empty folder. Raises OSError when they cannot be written."""
