"""A file that one process owns: locked while the process uses it, and not readable for other users of the machine.

The lock is on the file itself: a lock file beside it could be deleted, which would let a second process in. It is an
open file description lock on one byte far beyond the end. SQLite locks other bytes, so its readers are not affected,
also on network file systems, where flock would lock all bytes.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import struct
import sys
from pathlib import Path

PRIVATE = 0o600
SIDECARS = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite puts beside a database. Old ones may have another mode than it has."""

_BYTE = 2**62
_DARWIN_SETLK = 90  # from sys/fcntl.h; Python defines the constant on Linux only

logger = logging.getLogger(__name__)


class OwnedFile:
    """The lock of this process on the file at `path`.

    Before `take` or `release`, close everything else that has the file open: closing any descriptor of a file ends the
    locks that SQLite holds on it.
    """

    _owned: set[tuple[int, int]] = set()  # noqa: RUF012  # shared by the whole process

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._identity: tuple[int, int] | None = None

    @property
    def current(self) -> bool:
        """Whether the file at the path is still the locked one."""
        return self._identity is not None and _identity(self.path) == self._identity

    def take(self) -> None:
        """Lock the file at the path, also if it replaced the locked one; create it with mode 0600 if it is missing.

        Sets its mode and that of SQLite's files beside it to 0600, and logs a warning if that fails. Raises
        BlockingIOError if another owner has locked it, and OSError if it cannot be opened.
        """
        while not self.current:
            self.release()
            if _identity(self.path) in self._owned:  # opening and closing it would end that owner's locks
                raise BlockingIOError(errno.EWOULDBLOCK, "owned in this process already")
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, PRIVATE)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                _lock(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor, self._identity = descriptor, (status.st_dev, status.st_ino)
            self._owned.add(self._identity)
        for name in (self.path, *(self.path.with_name(self.path.name + suffix) for suffix in SIDECARS)):
            _make_private(name)

    def release(self) -> None:
        """Unlock the file, if it is locked."""
        if self._descriptor is not None and self._identity is not None:
            self._owned.discard(self._identity)
            os.close(self._descriptor)
        self._descriptor = self._identity = None


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, which tell it from another at the same path, or None."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _lock(descriptor: int) -> None:
    """Lock the owner's byte. Raises BlockingIOError if another process has locked it."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, _DARWIN_SETLK, struct.pack("qqihh", _BYTE, 1, 0, fcntl.F_WRLCK, os.SEEK_SET))
        return
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, _BYTE, 1, 0))
    except OSError as error:
        if error.errno != errno.EINVAL:  # the kernel lacks such locks
            raise
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _make_private(path: Path) -> None:
    """Set a file's mode to 0600, if the file exists."""
    try:
        if stat.S_IMODE(os.stat(path).st_mode) != PRIVATE:
            os.chmod(path, PRIVATE)
        reason = "the file system keeps it" if stat.S_IMODE(os.stat(path).st_mode) & 0o077 else None
    except FileNotFoundError:
        return
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        logger.warning(
            "%s: others may read it, as its mode cannot be 0600 (%s); set it, or move the file", path, reason
        )
