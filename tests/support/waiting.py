"""Wait in a test until the code under test has done something."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 30.0
"""Seconds after which a test that waits has failed."""


async def until(condition: Callable[[], Any], *, pause: float = 0.001, patience: float = PATIENCE) -> None:
    """Return as soon as `condition()`, which may be a coroutine, is true. Raises TimeoutError after `patience` seconds.

    It is asked again after `pause` seconds; with 0, at each turn of the event loop.
    """
    async with asyncio.timeout(patience):
        while not await _value(condition()):
            await asyncio.sleep(pause)


def wait_until(condition: Callable[[], Any]) -> None:
    """Block until `condition()` is true: `until` for tests without an event loop."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not become true")
        time.sleep(0.002)


async def _value(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result
