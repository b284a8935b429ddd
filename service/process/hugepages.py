"""Huge pages for what the process holds in memory.

A run reads every weight, and the interpreter's objects lie all over the heap: in pages of 4 KiB that is more of them
than the processor remembers the places of. Many Linux systems give huge pages only to who asks for them
(Documentation/admin-guide/mm/transhuge.rst, `madvise`), and the C library and the interpreter do not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MAPS = Path("/proc/self/maps")
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")

_COLLAPSE = 25
"""MADV_COLLAPSE, from Linux 6.1 on: copy what lies in small pages into huge ones, now."""

_NEVER = "[never]"
"""What the system says where nobody is to have huge pages; an old kernel would give them all the same."""

_OWN = ("", "[heap]")
_PRIVATE = "rw-p"


def use_huge_pages(maps: Path = MAPS, enabled: Path = ENABLED) -> None:
    """Move the process's memory into huge pages, wherever that may and can be had; it stays at its addresses.

    Takes some milliseconds for each of 2 MiB, in which threads wait that allocate memory. What is free between objects
    is filled up, so that the process grows a little.
    """
    with suppress(OSError, AttributeError):  # no Linux: no such file, or no such function
        if _NEVER in enabled.read_text():
            return
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, end in own_memory(maps.read_text()):
            madvise(start, end - start, _COLLAPSE)  # what is refused stays as it is


def own_memory(maps: str) -> Iterator[tuple[int, int]]:
    """The regions, from an address to another, that a `/proc/PID/maps` says are of no file, writable and not shared."""
    for line in maps.splitlines():
        addresses, permissions, _, _, _, *name = line.split(maxsplit=5)
        if permissions == _PRIVATE and "".join(name) in _OWN:
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)
