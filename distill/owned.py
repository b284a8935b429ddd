"""A file that one process owns: locked for as long as it works on it, and closed to other users of the machine.

The lock is on the file itself, not on one beside it, which somebody could delete and so let a second process in. It is
an open file description lock of one byte far behind the end: SQLite's own locks are on other bytes, so that its readers
come and go, also on network file systems, where flock would be on all bytes.
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
"""What SQLite puts beside a database, with its mode; those of an earlier version may have another."""

_BYTE = 2**62
_DARWIN_SETLK = 90  # sys/fcntl.h; Python names it for Linux alone

logger = logging.getLogger(__name__)


class OwnedFile:
    """The hold of this process on the file at `path`.

    Close whatever else has the file open before `take` or `release`: to close any descriptor of a file ends the locks
    that SQLite has on it.
    """

    _owned: set[tuple[int, int]] = set()  # noqa: RUF012  # of the process

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._identity: tuple[int, int] | None = None

    @property
    def current(self) -> bool:
        """Whether the file at the path is the one that is held."""
        return self._identity is not None and _identity(self.path) == self._identity

    def take(self) -> None:
        """Hold the file, anew where another stands at the path; it is created, with mode 0600, where there is none.

        Its mode is tightened, and that of SQLite's files beside it; where that cannot be done it is logged. Raises
        BlockingIOError when another owner has it, and OSError when it cannot be opened.
        """
        while not self.current:
            self.release()
            if _identity(self.path) in self._owned:  # to open and close it would end the locks of that owner
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
            _tighten(name)

    def release(self) -> None:
        """Let go of the file. Nothing to do when it is not held."""
        if self._descriptor is not None and self._identity is not None:
            self._owned.discard(self._identity)
            os.close(self._descriptor)
        self._descriptor = self._identity = None


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another at the same path; None when there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _lock(descriptor: int) -> None:
    """Lock the byte of the owner. Raises BlockingIOError when another has it."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, _DARWIN_SETLK, struct.pack("qqihh", _BYTE, 1, 0, fcntl.F_WRLCK, os.SEEK_SET))
        return
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, _BYTE, 1, 0))
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel that has no such locks
            raise
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _tighten(path: Path) -> None:
    """Take away what others than the owner may do with a file, if it is there."""
    try:
        if stat.S_IMODE(os.stat(path).st_mode) != PRIVATE:
            os.chmod(path, PRIVATE)
        reason = "the file system keeps it" if stat.S_IMODE(os.stat(path).st_mode) & 0o077 else None
    except FileNotFoundError:
        return
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        logger.warning("%s: others may read it, for its mode cannot be 0600 (%s); set it, or move it", path, reason)
