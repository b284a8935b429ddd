"""Push a bundle to a place, and pull one from there into a folder that a service reads.

What is pulled is written beside the folder, checked (digest, signature, hash of each file), and swapped in. Until then
the folder holds what it held.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distill.errors import one_line
from export.bundle.atomic import replaced
from export.bundle.format import MANIFEST, Bundle, BundleError
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
    folder = folder.resolve()
    _require_replaceable(folder)
    try:
        with _place(source) as place, _alone(folder):
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


def _require_replaceable(folder: Path) -> None:
    """Raise DeliveryError unless a bundle may take the folder's place."""
    if os.path.ismount(folder):
        raise DeliveryError(f"{folder}: is where a volume is mounted, which cannot be swapped; name a folder in it")
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST).is_file()):
        raise DeliveryError(
            f"{folder}: holds something else than a bundle, which is not overwritten; name a new folder"
        )
    if strangers := _strangers(folder):
        raise DeliveryError(
            f"{folder}: holds {', '.join(strangers)} beside a bundle, which would be deleted; move that away, or name "
            "a new folder"
        )


def _strangers(folder: Path) -> list[str]:
    """Return the files that are no part of the bundle in a folder, none if its manifest does not tell."""
    try:
        listed = json.loads((folder / MANIFEST).read_bytes())["files"]
        files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
        return sorted(file for file in files if file != MANIFEST and file not in listed)
    except (OSError, ValueError, KeyError, TypeError):
        return []


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


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time pull into a folder, and remove what a killed one left beside it.

    Pods that share a volume wait for each other here; then the later ones find the bundle in place.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{folder.name}.lock"):
        staging = re.compile(rf"\.{re.escape(folder.name.lstrip('.'))}-[a-z0-9_]{{8}}")
        for leftover in folder.parent.iterdir():
            if staging.fullmatch(leftover.name):
                shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made for it and removed afterwards."""
    while True:
        with file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_at(file, lock.fileno()):  # its last holder has removed it
                continue
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return


def _is_at(file: Path, descriptor: int) -> bool:
    """Whether an open file is the one at the path."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
