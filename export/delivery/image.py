"""A bundle as an image: what a registry stores, a node mounts as an image volume, and a digest names.

An ordinary OCI image, and not an artifact with media types of our own: container runtimes mount images wherever they
have image volumes, artifacts only in some versions. For the same reason it is no index, from which a node would pick
the part of its own architecture. Each file is a layer, an uncompressed tar of that file alone, so that registries and
nodes keep a tokenizer or a graph that two bundles share once. Nothing but the files' names and bytes goes into it (no
times, owners or compressor), so that equal files have an equal digest on every machine.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from export.bundle.format import MANIFEST, Bundle

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"

CHUNK = 2**20
_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that a registry keeps under their `digest`, `sha256:` and 64 hexadecimal digits; `size` counts bytes."""

    media_type: str
    digest: str
    size: int

    @property
    def descriptor(self) -> dict[str, Any]:
        """How manifests refer to it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}

    def chunks(self) -> Iterator[bytes]:
        """Yield its content."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Bytes(Blob):
    """A blob in memory."""

    content: bytes

    @classmethod
    def of(cls, content: bytes, media_type: str) -> Self:
        """Return the blob of some bytes."""
        return cls(media_type, digest_of(content), len(content), content)

    def chunks(self) -> Iterator[bytes]:
        """Yield its content."""
        yield self.content


@dataclass(frozen=True, slots=True)
class Layer(Blob):
    """A tar of the file `name` in `folder` alone, which is read anew each time."""

    folder: Path
    name: str

    @classmethod
    def of(cls, folder: Path, name: str) -> Self:
        """Return the layer of a file. Raises OSError when it cannot be read."""
        digest, size = hashlib.sha256(), 0
        for chunk in _tar(folder, name):
            digest.update(chunk)
            size += len(chunk)
        return cls(LAYER_TYPE, f"sha256:{digest.hexdigest()}", size, folder, name)

    def chunks(self) -> Iterator[bytes]:
        """Yield its content."""
        return _tar(self.folder, self.name)


@dataclass(frozen=True)
class Image:
    """The image of a bundle: a `layer` for each of its files and `manifest.json`, in the order of their names."""

    bundle: Bundle
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Return the image of an opened bundle. Files that its manifest does not list are left out."""
        names = sorted({MANIFEST, *bundle.manifest.files})
        return cls(bundle, tuple(Layer.of(bundle.path, name) for name in names))

    @cached_property
    def config(self) -> Bytes:
        """The configuration. Runtimes ask for a platform, though nothing in a bundle depends on one."""
        content = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in self.layers]},
        }
        return Bytes.of(canonical_json(content), CONFIG_TYPE)

    @cached_property
    def manifest(self) -> Bytes:
        """The manifest, whose digest is the image's."""
        content = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.config.descriptor,
            "layers": [layer.descriptor for layer in self.layers],
            "annotations": {
                "org.opencontainers.image.title": self.bundle.manifest.name,
                "org.opencontainers.image.version": self.bundle.manifest.version,
            },
        }
        return Bytes.of(canonical_json(content), MANIFEST_TYPE)

    @property
    def digest(self) -> str:
        """The digest that names the bundle wherever it is."""
        return self.manifest.digest


def digest_of(content: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def canonical_json(value: Any) -> bytes:
    """Return the one text of a JSON value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _tar(folder: Path, name: str) -> Iterator[bytes]:
    """Yield a tar of one file that says nothing of it but its name within `folder` and its bytes."""
    path, info = folder / name, tarfile.TarInfo(name)
    info.size = path.stat().st_size
    yield info.tobuf(tarfile.PAX_FORMAT)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
    yield bytes(-info.size % tarfile.BLOCKSIZE) + _END
