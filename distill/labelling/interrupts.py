"""Ctrl-C and SIGTERM during paid work: cancel it, so that it can store the answers of its calls in flight."""

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
    """Return the result of `work`. Each Ctrl-C or SIGTERM cancels it, and the first also calls `say`.

    Raises CancelledError if it was cancelled. The event loop handles the signals, so they never interrupt a statement.
    Where a loop cannot handle signals (on Windows, in a thread), Python's KeyboardInterrupt remains.
    """
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        first = not task.cancelling()
        task.cancel()
        if first:
            say()

    for number in _SIGNALS:
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, on_signal)
    try:
        return await task
    finally:
        for number in _SIGNALS:
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(number)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` and return its result; in a thread if an event loop is running already, as in a notebook.

    In that case KeyboardInterrupt cancels the work, and is raised once it has ended.
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
