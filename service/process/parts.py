"""A long computation on the event loop in parts, between which requests are answered.

It is a generator that yields wherever it may be interrupted, and returns its result. It reads what changes meanwhile
in one part. A thread would not do: it competes with the event loop for the interpreter, and counts are not thread-safe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeAlias, TypeVar

SLICE_SECONDS = 0.001
"""Parts run one after another for this long before the event loop has its turn; the last of them may take longer."""

T = TypeVar("T")
Parts: TypeAlias = Generator[None, None, T]


def whole(parts: Parts[T]) -> T:
    """Return the result of `parts` without any interruption."""
    while True:
        try:
            next(parts)
        except StopIteration as done:
            result: T = done.value
            return result


async def interleaved(parts: Parts[T]) -> T:
    """Return the result of `parts`, with turns of the event loop between them."""
    end = time.perf_counter() + SLICE_SECONDS
    while True:
        try:
            next(parts)
        except StopIteration as done:
            result: T = done.value
            return result
        if time.perf_counter() > end:
            await asyncio.sleep(0)
            end = time.perf_counter() + SLICE_SECONDS
