"""Push a bundle to a place, and pull one from there into a folder that a service reads.

What is pulled is written beside the folder, checked (digest, signature, hash of each file), and swapped in. Until then
the folder holds what it held.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distill.errors import DistillError, one_line
from export.bundle.atomic import replaced
from export.bundle.format import Bundle, BundleError
from export.bundle.target import alone, require_replaceable
from export.delivery.address import PLAIN_SCHEME, SCHEME, Address, require_digest, require_place
from export.delivery.credentials import login_for
from export.delivery.errors import DeliveryError
from export.delivery.folder_place import FolderPlace, LocalFiles, RemoteFiles
from export.delivery.image import Image
from export.delivery.place import Place
from export.delivery.registry import Registry
from export.delivery.registry_place import RegistryPlace
from export.delivery.signature import (
    PublicKey,
    Signature,
    read_private_key,
    read_public_key,
    require_signature,
)


@dataclass(frozen=True, slots=True)
class Delivered:
    """A bundle that was pushed or pulled, with its digest; `new` is False where it was in the folder already."""

    bundle: Bundle
    digest: str
    new: bool = True


def push(folder: Path, target: str, *, sign_key: Path | None = None) -> Delivered:
    """Push the bundle in `folder` to a registry (`oci://`), a folder or an object store, and sign its digest.

    Files that the bundle's manifest does not list stay behind. Raises BundleError for a folder that holds no whole
    bundle, and DeliveryError.
    """
    key = None if sign_key is None else read_private_key(sign_key)
    bundle = Bundle.open(folder)
    image = Image.of(bundle)
    with _place(target) as place:
        place.send(image)
        if key is not None:
            there = place.signatures(image.digest)
            if not any(each.holds(key.public_key(), image.digest) for each in there):
                made = Signature.make(key, image.digest, _repository(target))
                place.sign(image.digest, [*there, made])
    return Delivered(bundle, image.digest)


def pull(source: str, folder: Path, *, digest: str | None = None, verify_key: Path | None = None) -> Delivered:
    """Pull a bundle into `folder`, in place of the one that is there; nothing is copied if it is there already.

    With `digest`, another bundle is refused, and with `verify_key`, one that its owner did not sign. Raises
    DeliveryError; `folder` is then unchanged.
    """
    wanted = None if digest is None else require_digest(digest)
    key = None if verify_key is None else read_public_key(verify_key)
    try:
        folder = require_replaceable(folder)
    except DistillError as error:
        raise DeliveryError(str(error)) from error
    try:
        # Pods that share a volume wait for each other here; then the later ones find the bundle in place.
        with _place(source) as place, alone(folder):
            there = _bundle_in(folder)
            if there is not None and there.digest == wanted and key is None:
                return Delivered(there.bundle, there.digest, new=False)  # also while the source is down
            known = place.digest(wanted)
            if known is not None:
                _require_trusted(place, known, wanted, key, source)
            if there is not None and there.digest == known:
                return Delivered(there.bundle, there.digest, new=False)
            with replaced(folder) as staging:
                arrived = _fetched(place, staging, source)
                if known is None:
                    _require_trusted(place, arrived.digest, wanted, key, source)
            return Delivered(Bundle(folder, arrived.bundle.manifest), known or arrived.digest)
    except OSError as error:
        raise DeliveryError(
            f"{folder}: cannot be written ({error.strerror or one_line(error)}); free space or correct its "
            "permissions. What was there is unchanged"
        ) from error


@contextmanager
def _place(address: str) -> Iterator[Place]:
    require_place(address)
    if address.startswith((SCHEME, PLAIN_SCHEME)):
        parsed = Address.parse(address)
        with Registry(parsed, login_for(parsed.host)) as registry:
            yield RegistryPlace(registry)
    elif "://" in address:
        yield FolderPlace(RemoteFiles(address), address)
    else:
        yield FolderPlace(LocalFiles(Path(address)), address)


def _repository(address: str) -> str:
    return Address.parse(address).name if address.startswith((SCHEME, PLAIN_SCHEME)) else address


def _require_trusted(place: Place, digest: str, wanted: str | None, key: PublicKey | None, source: str) -> None:
    if wanted is not None and digest != wanted:
        raise DeliveryError(f"{source}: holds {digest}, not {wanted}; pull the digest that is there, or from elsewhere")
    if key is not None:
        require_signature(place.signatures(digest), key, digest, source)


def _bundle_in(folder: Path) -> Image | None:
    """Return the image of the bundle in a folder, or None if it holds no whole one."""
    try:
        return Image.of(Bundle.open(folder))
    except BundleError:
        return None


def _fetched(place: Place, staging: Path, source: str) -> Image:
    """Fetch a bundle and return its image. Raises DeliveryError for one that is not whole."""
    try:
        place.fetch(staging)
        return Image.of(Bundle.open(staging))
    except BundleError as error:
        told = str(error).replace(str(staging), source)
        raise DeliveryError(f"{told}. What arrived is not a whole bundle, and what was there is unchanged") from error
