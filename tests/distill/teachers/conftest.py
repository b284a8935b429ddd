"""What tests of teachers behind an API share: real sockets, and an event loop whose clock takes no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.support.http_server import Handler, serving


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    """`await serve(handler)`: the root URL at which a handler answers until the test ends."""
    async with AsyncExitStack() as stack:

        async def start(handler: Handler) -> str:
            return (await stack.enter_async_context(serving(handler))).url

        yield start


class _Selector(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits for something that never comes"
            self.now += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._fake = _Selector()
        super().__init__(self._fake)

    def time(self) -> float:
        return self._fake.now


@pytest.fixture
def run() -> Callable[[Callable[[Callable[[], float]], Coroutine[Any, Any, None]]], None]:
    """`run(test)`: run `test(clock)` on a loop whose clock moves only when all sleep, so that no test takes time."""

    def start(test: Callable[[Callable[[], float]], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(test(runner.get_loop().time))

    return start
