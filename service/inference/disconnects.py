"""Await an answer, and stop waiting when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect

from service.inference.types import Withdraw

Answer = TypeVar("Answer")
Leaving = Callable[[], Awaitable[None]]
"""Returns once the client has left."""

_WATCH_SECONDS = 0.05
"""Watching a client costs a task, so only a request that waits for this long is watched."""


async def await_answer(
    submit: Callable[[Callable[[Answer | Exception], None]], Withdraw], leaving: Leaving | None = None
) -> Answer:
    """Call `submit(done)` and await what `done` gets; return it, or raise it if it is an exception.

    When the client leaves first, or the task is cancelled, the request is withdrawn. Raises ClientDisconnect in the
    first case, and what `submit` raises.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()

    def done(outcome: Answer | Exception) -> None:
        if answer.done():  # the client has left or the task was cancelled, and the request is not withdrawn yet
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    withdraw = submit(done)
    timer = None if leaving is None else loop.call_later(_WATCH_SECONDS, _watch, answer, leaving)
    try:
        return await answer
    finally:
        if timer is not None:
            timer.cancel()
        withdraw()


def _watch(answer: asyncio.Future[Answer], leaving: Leaving) -> None:
    """Let `answer` fail when the client leaves before it is there."""

    def fail(_: object) -> None:
        if not answer.done():
            answer.set_exception(ClientDisconnect())

    left = asyncio.ensure_future(leaving())
    left.add_done_callback(fail)
    answer.add_done_callback(lambda _: left.cancel())
