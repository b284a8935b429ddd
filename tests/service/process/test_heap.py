"""The heap while a bundle is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes
from service.process.heap import small_heap

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_size_t,), (ctypes.c_void_p,)

def mapped():
    before = libc.mallinfo2().hblkhd
    block = libc.malloc(16 * 2**20)
    grown = libc.mallinfo2().hblkhd - before
    libc.free(block)
    return grown >= 16 * 2**20

with small_heap():
    loading = mapped()
print(loading, mapped())
"""


def test_a_large_block_is_mapped_on_its_own_while_loading_and_taken_from_the_heap_afterwards() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    if "mallinfo2" in found.stderr:
        pytest.skip("mallinfo2 is glibc's, since 2.33")
    assert found.stdout == "True False\n", found.stderr
