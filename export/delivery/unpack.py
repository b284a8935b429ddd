"""Unpack a layer into a folder: plain files with plain names, and nothing that could write elsewhere."""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from pathlib import Path

from export.bundle.manifest_rules import STAGES, is_file_name, is_within
from export.delivery.errors import DeliveryError
from export.delivery.image import CHUNK, LAYER_TYPE

LAYER_TYPES = {
    LAYER_TYPE,
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
}
"""Other tools compress layers when they copy an image, or build one from a bundle's folder."""


def unpack(layer: Path, folder: Path, where: str) -> None:
    """Write the files of a tar, which may be compressed with gzip, into `folder`. `where` names it in messages.

    Raises DeliveryError for one that cannot be read, or that has anything but files at its top, and OSError when a file
    cannot be written.
    """
    try:
        with layer.open("rb") as file, tarfile.open(fileobj=file, mode="r|*", bufsize=CHUNK) as archive:
            for member in archive:
                _write(archive, member, folder, where)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise DeliveryError(f"{where}: a layer is no tar ({error}); push the bundle again") from error


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, where: str) -> None:
    name = member.name.removeprefix("./")
    if member.isdir() and (name in (".", "") or name == STAGES or is_within(name, STAGES)):
        return
    if not (member.isreg() and is_file_name(name)):
        raise DeliveryError(
            f"{where}: holds {member.name!r}, which is no plain file at its top or of a stage, as all of a bundle are; "
            "nothing was unpacked: push the bundle with `reflux push`"
        )
    source = archive.extractfile(member)
    assert source is not None  # it is a regular file
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("wb") as target:
        shutil.copyfileobj(source, target, CHUNK)
        target.flush()
        os.fsync(target.fileno())
