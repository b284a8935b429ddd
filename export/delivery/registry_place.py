"""A bundle in an OCI registry: an image with a layer for each file, and its signatures beside it as cosign has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.delivery.address import require_digest
from export.delivery.errors import DeliveryError
from export.delivery.image import CONFIG_TYPE, MANIFEST_TYPE, Bytes, Image, canonical_json, digest_of
from export.delivery.registry import Registry
from export.delivery.signature import ANNOTATION, PAYLOAD_TYPE, Signature, decoded, encoded
from export.delivery.unpack import LAYER_TYPES, unpack

_BLOB = ".layer"  # no file of a bundle begins with a dot


class RegistryPlace:
    """The bundle at the address of a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._name = registry.address.name
        self._manifest: bytes | None = None

    def send(self, image: Image) -> None:
        """Store the layers that the repository lacks, then the manifest, under the tag or the bundle's version."""
        address = self._registry.address
        if address.digest is not None:
            raise DeliveryError(f"{self._name}@{address.digest}: a digest follows from the content; push to a tag")
        for blob in (*image.layers, image.config):
            self._registry.put_blob(blob)
        self._registry.put_manifest(address.tag or image.bundle.manifest.version, image.manifest)

    def signatures(self, digest: str) -> list[Signature]:
        """Return the signatures in the image `sha256-….sig`."""
        content = self._registry.manifest(_signature_tag(digest))
        if content is None:
            return []
        found = []
        for layer in _object(content, self._name).get("layers", []):
            if layer.get("mediaType") != PAYLOAD_TYPE:
                continue
            try:
                value = decoded(layer["annotations"][ANNOTATION])
            except (ValueError, KeyError, TypeError) as error:
                raise DeliveryError(
                    f"{self._name}:{_signature_tag(digest)}: no signature ({error}); sign it anew"
                ) from error
            found.append(Signature(self._registry.small_blob(require_digest(layer["digest"])), value))
        return found

    def sign(self, digest: str, signatures: list[Signature]) -> None:
        """Store signatures in the image `sha256-….sig`."""
        payloads = [Bytes.of(each.payload, PAYLOAD_TYPE) for each in signatures]
        rootfs = {"type": "layers", "diff_ids": [payload.digest for payload in payloads]}
        config = Bytes.of(canonical_json({"architecture": "", "os": "", "config": {}, "rootfs": rootfs}), CONFIG_TYPE)
        layers = [
            {**payload.descriptor, "annotations": {ANNOTATION: encoded(each.value)}}
            for payload, each in zip(payloads, signatures, strict=True)
        ]
        content = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config.descriptor, "layers": layers}
        for blob in (*payloads, config):
            self._registry.put_blob(blob)
        self._registry.put_manifest(_signature_tag(digest), Bytes.of(canonical_json(content), MANIFEST_TYPE))

    def digest(self, wanted: str | None) -> str:
        """Read the manifest of the digest that is wanted, else of that in the address, else of its tag."""
        address = self._registry.address
        if wanted and address.digest and wanted != address.digest:
            raise DeliveryError(f"{self._name}@{address.digest}: is not {wanted}; leave one of the two digests out")
        reference = wanted or address.digest or address.tag
        if reference is None:
            raise DeliveryError(f"{self._name}: which bundle? Add a tag or a digest, as in {self._name}:TAG")
        content = self._registry.manifest(reference)
        if content is None:
            raise DeliveryError(f"{self._name}: has no {reference}; push it with `reflux push`, or correct the address")
        found = digest_of(content)
        if reference.startswith("sha256:") and found != reference:
            raise DeliveryError(
                f"{self._name}: the manifest that arrived is {found}, not {reference}; pull it elsewhere"
            )
        self._manifest = content
        return found

    def fetch(self, folder: Path) -> None:
        """Download and unpack one layer after the other."""
        assert self._manifest is not None, "digest() reads the manifest"
        for digest, size in _layers(self._manifest, self._name):
            blob = folder / _BLOB
            self._registry.blob_to(blob, digest, size)
            unpack(blob, folder, self._name)
            blob.unlink()


def _layers(manifest: bytes, where: str) -> list[tuple[str, int]]:
    """Return digest and size in bytes of each layer. Raises DeliveryError for anything but an image of tars."""
    content = _object(manifest, where)
    if "manifests" in content:
        raise DeliveryError(f"{where}: is an index of several images; name the digest of the one that is a bundle")
    try:
        layers = [
            (layer["mediaType"], require_digest(layer["digest"]), int(layer["size"])) for layer in content["layers"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DeliveryError(
            f"{where}: no manifest of an image ({error!r}); push the bundle with `reflux push`"
        ) from error
    for kind, _, _ in layers:
        if kind not in LAYER_TYPES:
            raise DeliveryError(
                f"{where}: has a layer of type {kind!r}, read are tars, plain or with gzip; "
                "push the bundle with `reflux push`"
            )
    return [(digest, size) for _, digest, size in layers]


def _object(content: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DeliveryError(f"{where}: the manifest is not JSON ({error}); is this a registry?") from error
    if not isinstance(found, dict):
        raise DeliveryError(f"{where}: the manifest is no JSON object; is this a registry?")
    return found


def _signature_tag(digest: str) -> str:
    return f"{digest.replace(':', '-')}.sig"
