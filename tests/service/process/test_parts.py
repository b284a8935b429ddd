"""Long computations in parts: the event loop has its turns, and the result is the same."""

from __future__ import annotations

import asyncio
import time

import pytest

from service.process.parts import SLICE_SECONDS, Parts, interleaved, whole


def slow(parts: int) -> Parts[int]:
    total = 0
    for number in range(parts):
        time.sleep(2 * SLICE_SECONDS)
        total += number
        yield
    return total


async def test_the_event_loop_turns_between_long_parts():
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert await interleaved(slow(5)) == whole(slow(5)) == 10
    assert turns >= 5
    counting.cancel()


async def test_an_error_in_a_part_is_raised():
    def failing() -> Parts[None]:
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await interleaved(failing())
