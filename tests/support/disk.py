"""A disk that is full."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def nearly_full(database: Path) -> Iterator[None]:
    """Let the write-ahead log of an SQLite database grow by 20,000 bytes and no more, as on a full disk."""
    with full_after(database.with_name(f"{database.name}-wal").stat().st_size + 20_000):
        yield


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """Let this process write no file beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
