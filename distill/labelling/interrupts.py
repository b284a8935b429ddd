"""Ctrl-C and SIGTERM for work that pays as it goes: it is asked to end, and what is under way is not thrown away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Event
from typing import Any, TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def interruptible(work: Coroutine[Any, Any, T], say: Callable[[], None]) -> T:
    """What `work` gives. Each Ctrl-C or SIGTERM cancels it, and the first is followed by `say`; raises CancelledError.

    The signals are heard by the event loop, so that they never strike in the middle of a statement. Where a loop cannot
    hear signals (Windows, a thread), Python's KeyboardInterrupt remains.
    """
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()

    def strike() -> None:
        first = not task.cancelling()
        task.cancel()
        if first:
            say()

    for heard in _SIGNALS:
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(heard, strike)
    try:
        return await task
    finally:
        for heard in _SIGNALS:
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(heard)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end and return what it gives; where a loop runs already, as in a notebook, in a thread.

    There KeyboardInterrupt cancels the work, and is raised when that has ended.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    begun: Future[Callable[[], object]] = Future()
    ended = Event()

    async def cancellable() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        begun.set_result(lambda: loop.call_soon_threadsafe(task.cancel) if task else None)
        try:
            return await work
        finally:
            ended.set()

    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(asyncio.run, cancellable()).result()
        except KeyboardInterrupt:
            begun.result()()
            ended.wait()
            raise
