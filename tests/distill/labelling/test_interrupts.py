"""Work that is asked to end by a signal hears it as a cancellation, and only while it runs."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from distill.labelling.interrupts import interruptible, run_async


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_cancels_the_work_and_is_said_once(number: signal.Signals) -> None:
    said: list[str] = []
    cancelled = 0

    async def work() -> None:
        nonlocal cancelled
        for _ in range(2):
            os.kill(os.getpid(), number)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await interruptible(work(), lambda: said.append("stopping"))
    assert (cancelled, said) == (2, ["stopping"])
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def test_within_a_running_loop_work_has_a_thread_and_what_it_gives_or_raises_comes_back() -> None:
    async def give() -> int:
        await asyncio.sleep(0)
        return 7

    async def fail() -> None:
        raise ValueError("of the work")

    async def notebook() -> int:
        with pytest.raises(ValueError, match="of the work"):
            run_async(fail())
        return run_async(give())

    assert (asyncio.run(notebook()), run_async(give())) == (7, 7)


def test_within_a_running_loop_an_interrupt_cancels_the_work_and_waits_for_it() -> None:
    ended: list[str] = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # a call in flight, which is stored
            ended.append("stored")

    async def notebook() -> None:
        with pytest.raises(KeyboardInterrupt):
            run_async(interruptible(work(), lambda: None))

    loop = asyncio.new_event_loop()  # asyncio.run would hear the signal itself; a notebook's kernel does not
    loop.run_until_complete(notebook())
    loop.close()
    assert ended == ["stored"]
