"""Keeps the C library's heap small while a bundle is loaded. Does nothing where there is no glibc.

Loading reads files, parses a graph and measures large batches, in blocks that are freed soon. Once glibc has seen a few
of these freed, it takes the next ones from the heap (mallopt(3), M_MMAP_THRESHOLD), where the blocks that stay behind
them keep the freed memory in the process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""The parameters M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt."""

_LOADING = 128 * 2**10
"""Bytes from which a block is mapped on its own; this is glibc's value at the start of a process."""

_SERVING = 32 * 2**20
"""The highest that glibc raises it to: runs then reuse memory instead of asking the system for it each time. It keeps
twice as much free memory at the end of the heap, so it must be told to do so when the threshold is set by hand."""


@contextmanager
def small_heap() -> Iterator[None]:
    """Map large blocks on their own inside the context, and give all freed memory back to the system at its end."""
    _map_blocks_from(_LOADING)
    try:
        yield
    finally:
        _map_blocks_from(_SERVING)
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _map_blocks_from(size: int) -> None:
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, size)
        mallopt(_TRIM_THRESHOLD, 2 * size)
