"""Work that is asked to end by a signal hears it as a cancellation, and only while it runs."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from distill.labelling.interrupts import interruptible


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
