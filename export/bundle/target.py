"""The folder that a command writes a bundle to: what may be replaced there, and by one process at a time.

`atomic` does the writing.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distill.errors import DistillError
from export.bundle.format import CARD, GOLDEN, MANIFEST, MODEL, PORTABLE, REFERENCE, TOKENIZER

_USUAL = (MODEL, PORTABLE, TOKENIZER, REFERENCE, GOLDEN, CARD)
"""The files of a bundle whose manifest cannot be read."""


def require_new(folder: Path, remedy: str = "name a new folder") -> None:
    """Raise DistillError, which ends with the remedy, unless `folder` is free or an empty folder."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DistillError(f"{folder}: is a file, and nothing is overwritten; {remedy}")
    if any(folder.iterdir()):
        raise DistillError(f"{folder}: is not an empty folder, and nothing is overwritten; {remedy}")


def require_replaceable(folder: Path, keep: Sequence[Path] = ()) -> Path:
    """Return the folder that `folder` leads to, in whose place a bundle may be written.

    Raises DistillError unless it is free, empty, or holds a bundle and nothing else, and for a folder of `keep`, one
    around it, and one inside it.
    """
    target = folder.resolve()
    for kept in (path.resolve() for path in keep):
        if target == kept or target in kept.parents or kept in target.parents:
            raise DistillError(f"{folder}: {kept} is read to make it, and is not overwritten; name another folder")
    if os.path.ismount(target):
        raise DistillError(f"{folder}: is where a volume is mounted, which cannot be swapped; name a folder in it")
    if not target.exists():
        return target
    if not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST).is_file()):
        raise DistillError(f"{folder}: holds something else than a bundle, which is not overwritten; name a new folder")
    if strangers := _strangers(target):
        raise DistillError(
            f"{folder}: holds {', '.join(strangers)} beside a bundle, which would be deleted; move that away, or name "
            "a new folder"
        )
    return target


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time write the resolved `folder`, and remove what a killed one left beside it.

    The others wait.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{folder.name}.lock"):
        staging = re.compile(rf"\.{re.escape(folder.name.lstrip('.'))}-[a-z0-9_]{{8}}")
        for leftover in folder.parent.iterdir():
            if staging.fullmatch(leftover.name):
                shutil.rmtree(leftover, ignore_errors=True)
        yield


def _strangers(folder: Path) -> list[str]:
    """Return the files that are no part of the bundle in a folder."""
    try:
        listed = [*json.loads((folder / MANIFEST).read_bytes())["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        listed = [*_USUAL]
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(file for file in files if file != MANIFEST and file not in listed)


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
