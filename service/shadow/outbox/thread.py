"""The thread that runs all calls to an outbox, for callers on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from service.process.priority import lower_priority

P = ParamSpec("P")
T = TypeVar("T")


class OutboxThread:
    """Runs calls one at a time, in order, at a lower priority than inference."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="shadow-outbox", initializer=lower_priority)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in the thread and return its result. A started call ends even if the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Accept no more calls, without waiting: every call to an outbox is bounded, so the thread ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)
