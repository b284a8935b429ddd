"""A bundle in a folder: of this machine, or of an object store that fsspec reaches (`s3://`, `gs://` and others).

The files lie there as they are, so that what serves from a folder or a bucket can read them, too. `manifest.json` is
written last and read first. Signatures are in `signatures.json` beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol, cast

from distill.errors import one_line
from export.bundle.format import MANIFEST, Manifest
from export.delivery.errors import DeliveryError
from export.delivery.image import CHUNK, Image
from export.delivery.signature import Signature, signatures_from_json, signatures_to_json

SIGNATURES = "signatures.json"
_EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}


class Files(Protocol):
    """Files in one folder."""

    def open(self, name: str, mode: str) -> IO[bytes]:
        """Open a file, `rb` or `wb`. Raises FileNotFoundError where it is missing."""

    def names(self) -> list[str]:
        """Return the names of the files and folders at its top, none of a folder that is not there."""


class LocalFiles:
    """Files in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, name: str, mode: str) -> IO[bytes]:
        """Open a file; to write one, also make its folder."""
        path = self._folder / name
        if mode == "wb":
            path.parent.mkdir(parents=True, exist_ok=True)
        return cast("IO[bytes]", path.open(mode))

    def names(self) -> list[str]:
        """Return the names at the folder's top."""
        return [path.name for path in self._folder.iterdir()] if self._folder.exists() else []


class RemoteFiles:
    """Files at a URL that fsspec knows. The libraries behind it retry by themselves."""

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0]
        try:
            import fsspec

            self._system, self._root = fsspec.url_to_fs(url.rstrip("/"))
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            need = f"pip install 'reflux[{extra}]'" if extra else f"install fsspec and its package for {scheme}://"
            raise DeliveryError(f"{url}: {one_line(error)}; {need}") from error
        except Exception as error:  # each store has kinds of its own, and some connect already
            raise DeliveryError(f"{url}: {one_line(error)}; give oci://, s3://, gs://, or a folder") from error

    def open(self, name: str, mode: str) -> IO[bytes]:
        """Open a file."""
        return cast("IO[bytes]", self._system.open(f"{self._root}/{name}", mode))

    def names(self) -> list[str]:
        """Return the names below the address."""
        try:
            found = self._system.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        root = self._root.strip("/")
        below = (path.strip("/") for path in found)
        return [path.removeprefix(f"{root}/") for path in below if path != root]  # some stores list the folder itself


class FolderPlace:
    """The bundle in a folder, which `where` names in messages."""

    def __init__(self, files: Files, where: str) -> None:
        self._files = files
        self._where = where.rstrip("/")

    def send(self, image: Image) -> None:
        """Copy the files, the manifest last, unless this bundle is here.

        Nothing is overwritten: neither another bundle nor other files, except what a push that broke off left.
        """
        found = self._read(MANIFEST)
        if found is not None and found != (image.bundle.path / MANIFEST).read_bytes():
            raise DeliveryError(
                f"{self._where}: holds another bundle, and whoever reads it meanwhile would get files of both; push to "
                f"{self._where}/{image.bundle.manifest.version}"
            )
        if found is None:
            self._require_free(image)
            for name in (*image.bundle.manifest.files, MANIFEST):
                with (image.bundle.path / name).open("rb") as source:
                    self._write(name, source)

    def _require_free(self, image: Image) -> None:
        listed = [*image.bundle.manifest.files]
        known = {name.partition("/")[0] for name in listed} | {SIGNATURES}
        with self._told(""):
            taken = {name for name in self._files.names() if name not in known}
        if not taken:
            taken = {name for name in listed if not self._begins(image.bundle.path / name, name)}
        if taken:
            raise DeliveryError(
                f"{self._where}: holds {', '.join(sorted(taken))}, which is no part of the bundle; push to a new "
                f"folder, such as {self._where}/{image.bundle.manifest.version}"
            )

    def _begins(self, source: Path, name: str) -> bool:
        """Whether a file is missing here, or is as `source` or its beginning."""
        try:
            with source.open("rb") as whole:
                return all(whole.read(len(chunk)) == chunk for chunk in self._chunks(name))
        except DeliveryError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return True
            raise

    def signatures(self, digest: str) -> list[Signature]:
        """Return the signatures beside the files."""
        content = self._read(SIGNATURES)
        return [] if content is None else signatures_from_json(content, f"{self._where}/{SIGNATURES}")

    def sign(self, digest: str, signatures: list[Signature]) -> None:
        """Write the signatures beside the files."""
        with self._told(SIGNATURES), self._files.open(SIGNATURES, "wb") as target:
            target.write(signatures_to_json(signatures))

    def digest(self, wanted: str | None) -> None:
        """Return None: the digest is that of all files together."""

    def fetch(self, folder: Path) -> None:
        """Copy the files that the manifest lists."""
        content = self._read(MANIFEST)
        if content is None:
            raise DeliveryError(f"{self._where}: has no {MANIFEST}; push a bundle there with `reflux push`")
        (folder / MANIFEST).write_bytes(content)
        for name in Manifest.from_json(content, folder / MANIFEST).files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("wb") as target:
                for chunk in self._chunks(name):
                    target.write(chunk)

    def _read(self, name: str) -> bytes | None:
        with self._told(name):
            try:
                with self._files.open(name, "rb") as source:
                    return source.read()
            except FileNotFoundError:
                return None

    def _chunks(self, name: str) -> Iterator[bytes]:
        with self._told(name), self._files.open(name, "rb") as source:
            while chunk := source.read(CHUNK):
                yield chunk

    def _write(self, name: str, source: IO[bytes]) -> None:
        with self._told(name), self._files.open(name, "wb") as target:
            shutil.copyfileobj(source, target, CHUNK)

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Turn every error into a DeliveryError: each store has kinds of its own."""
        try:
            yield
        except Exception as error:
            raise DeliveryError(
                f"{self._where}/{name}: {one_line(error)}; correct the address, the store's login or its permissions"
            ) from error
