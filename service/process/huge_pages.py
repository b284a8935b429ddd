"""Moves the process's memory into huge pages.

A run reads every weight, and in pages of 4 KiB that is more pages than the processor's address cache holds. Many Linux
systems give huge pages only to processes that ask for them with madvise (Documentation/admin-guide/mm/transhuge.rst),
and neither the C library nor the interpreter does. This is an optimisation only: the service runs the same without it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MAPS = Path("/proc/self/maps")
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")

_COLLAPSE = 25
"""MADV_COLLAPSE, since Linux 6.1: copy small pages into huge ones, now."""

_NEVER = "[never]"
"""The mark of a system that gives huge pages to no process; MADV_COLLAPSE itself would not heed it."""

_OWN = ("", "[heap]")
_PRIVATE = "rw-p"


def use_huge_pages(maps: Path = MAPS, enabled: Path = ENABLED) -> None:
    """Move the process's memory into huge pages where the system allows it; all addresses stay the same.

    That takes some milliseconds per 2 MiB, during which threads that allocate memory wait. The process grows a little,
    because gaps between objects are filled up.
    """
    with suppress(OSError, AttributeError):  # other systems have no such file or function
        if _NEVER in enabled.read_text():
            return
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, end in own_memory(maps.read_text()):
            madvise(start, end - start, _COLLAPSE)  # a region that is refused stays as it is


def own_memory(maps: str) -> Iterator[tuple[int, int]]:
    """Yield the first and last address of each private, writable region without a file, given a `/proc/PID/maps`."""
    for line in maps.splitlines():
        addresses, permissions, _, _, _, *name = line.split(maxsplit=5)
        if permissions == _PRIVATE and "".join(name) in _OWN:
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)
