"""The process's memory is moved into huge pages where the system has them; elsewhere nothing happens."""

import ctypes
import mmap
import platform
import re
from pathlib import Path

import pytest

from service.process.huge_pages import ENABLED, own_memory, use_huge_pages

_MIB = 1 << 20
_REGION = "7f0000000000-7f0000800000 {} 00000000 {} {}  {}\n"


def kernel():
    return tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])


def huge_kilobytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:"))


@pytest.fixture
def memory():
    """16 MiB of small pages, which may become huge ones, and what they hold."""
    with mmap.mmap(-1, 16 * _MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        content = bytes(range(256)) * (len(memory) // 256)
        memory[:] = content
        memory.madvise(mmap.MADV_HUGEPAGE)
        yield memory, content


@pytest.mark.skipif(
    not ENABLED.exists() or "[never]" in ENABLED.read_text(), reason="this system gives nobody huge pages"
)
@pytest.mark.skipif(kernel() < (6, 1), reason="before 6.1 Linux does not move what is there")
def test_memory_in_small_pages_is_moved_into_huge_ones_and_keeps_what_it_holds(memory):
    memory, content = memory
    before = huge_kilobytes()
    for _ in range(5):  # the kernel may lack free memory in one piece for a moment (EAGAIN)
        use_huge_pages()
        if huge_kilobytes() >= before + 14 * 1024:
            break
    assert huge_kilobytes() >= before + 14 * 1024
    assert memory[:] == content


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells of huge pages")
def test_where_the_system_says_that_nobody_is_to_have_them_nothing_is_moved(memory, tmp_path):
    enabled = tmp_path / "enabled"
    enabled.write_text("always madvise [never]\n")
    before = huge_kilobytes()
    use_huge_pages(enabled=enabled)
    assert huge_kilobytes() == before


@pytest.mark.parametrize(
    ("line", "own"),
    [
        (_REGION.format("rw-p", "00:00", 0, ""), True),
        (_REGION.format("rw-p", "00:00", 0, "[heap]"), True),
        (_REGION.format("rw-s", "00:01", 7, "/dev/shm/a table"), False),
        (_REGION.format("rw-p", "08:01", 7, "/usr/lib/libc.so.6"), False),
        (_REGION.format("r-xp", "00:00", 0, ""), False),
        (_REGION.format("---p", "00:00", 0, ""), False),
        (_REGION.format("rw-p", "00:00", 0, "[stack]"), False),
    ],
)
def test_only_memory_of_no_file_that_is_written_and_not_shared_is_moved(line, own):
    assert list(own_memory(line)) == ([(0x7F0000000000, 0x7F0000800000)] if own else [])


def test_where_the_system_has_no_such_file_nothing_happens(tmp_path):
    use_huge_pages(tmp_path / "maps")


def test_where_the_system_has_no_such_function_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    use_huge_pages()


def test_what_the_system_refuses_keeps_what_it_holds(tmp_path):
    memory = ctypes.create_string_buffer(b"kept", 64)
    maps = tmp_path / "maps"
    start = ctypes.addressof(memory) + 1  # not where a page begins
    maps.write_text(f"{start:x}-{start + 8:x} rw-p 00000000 00:00 0\n")
    use_huge_pages(maps)
    assert memory.value == b"kept"
