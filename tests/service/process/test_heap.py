"""The heap while a bundle is loaded."""

from __future__ import annotations

import ctypes
import sys

import pytest

from service.process.heap import small_heap

BLOCK = 4 * 2**20


def mapped_bytes() -> int:
    """Return the bytes that glibc has mapped outside its heap (mallinfo2, field hblkhd)."""

    class Info(ctypes.Structure):
        _fields_ = [
            (name, ctypes.c_size_t)
            for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
        ]

    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Info
    return int(mallinfo().hblkhd)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_large_block_is_mapped_on_its_own_while_loading_and_taken_from_the_heap_afterwards() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("glibc before 2.33 has no mallinfo2")
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        (ctypes.c_size_t,),
        (ctypes.c_void_p,),
    )
    with small_heap():
        before = mapped_bytes()
        block = libc.malloc(BLOCK)
        grown = mapped_bytes() - before
        libc.free(block)
    assert grown >= BLOCK
    before = mapped_bytes()
    block = libc.malloc(BLOCK)
    grown = mapped_bytes() - before
    libc.free(block)
    assert grown == 0
