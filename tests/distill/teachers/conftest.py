"""What tests of teachers behind an API share: real sockets, and an event loop whose clock takes no time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from tests.support.http_server import Handler, serving


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    """`await serve(handler)`: the root URL at which a handler answers until the test ends."""
    async with AsyncExitStack() as stack:

        async def start(handler: Handler) -> str:
            return (await stack.enter_async_context(serving(handler))).url

        yield start
