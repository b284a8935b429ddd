"""Write a folder whole or not at all: it is filled beside its place, and takes that in one step."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # linux/fcntl.h


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`, which takes its place in one step at the end of the block.

    What was at `target` is deleted then. If the block raises, the folder is removed and `target` is unchanged. Raises
    OSError when the folder cannot be made or moved.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # One dot even where `target` is hidden itself, so that its stage recognises what a killed process leaves behind.
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name.lstrip('.')}-", dir=target.parent))
    try:
        yield staging
        staging.chmod(0o755)
        _replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _replace(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    aside = staging
    if not _exchange(staging, target):
        aside = staging.with_name(f"{staging.name}-old")
        target.rename(aside)
        try:
            staging.rename(target)
        except BaseException:
            aside.rename(target)
            raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories in one step, so that neither name is ever free. False where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    paths = (os.fsencode(first), os.fsencode(second))
    return rename is not None and rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0
