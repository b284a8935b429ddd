"""Cut an iterable of texts into chunks and ask for several chunks at once, in order, with threads or with tasks."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from itertools import islice
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")


class Chunk(NamedTuple):
    """The texts of one request, and their positions among all texts, counted from 0."""

    indices: range
    texts: list[str]


def check(texts: object, batch_size: int, concurrency: int) -> None:
    """Raise TypeError if `texts` is a single text, ValueError if `batch_size` or `concurrency` is below 1."""
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of texts, not a single text; use classify for one text")
    if batch_size < 1 or concurrency < 1:
        raise ValueError(f"batch_size and concurrency must be at least 1, not {batch_size} and {concurrency}")


def chunks(texts: Iterable[str], size: int) -> Iterator[Chunk]:
    """Cut `texts` into chunks of `size`; the last one may be smaller."""
    start, rest = 0, iter(texts)
    while taken := list(islice(rest, size)):
        yield Chunk(range(start, start + len(taken)), taken)
        start += len(taken)


async def chunks_async(texts: Iterable[str] | AsyncIterable[str], size: int) -> AsyncGenerator[Chunk, None]:
    """Do the same as `chunks`; `texts` may be asynchronous."""
    if not isinstance(texts, AsyncIterable):
        for chunk in chunks(texts, size):
            yield chunk
        return
    start, taken = 0, list[str]()
    async for text in texts:
        taken.append(text)
        if len(taken) == size:
            yield Chunk(range(start, start + size), taken)
            start, taken = start + size, []
    if taken:
        yield Chunk(range(start, start + len(taken)), taken)


def in_order(
    ask: Callable[[Chunk], Iterable[Item]], source: Iterator[Chunk], concurrency: int, abandoned: threading.Event
) -> Generator[Item, None, None]:
    """Yield what `ask` returns for each chunk of `source`, in order, with up to `concurrency` calls at a time.

    When the generator ends or is closed, it sets `abandoned` for the calls that still run, and waits for them: no
    thread is left.
    """
    pending: deque[Future[Iterable[Item]]] = deque()
    with ThreadPoolExecutor(concurrency, thread_name_prefix="reflux") as threads:
        try:
            for chunk in source:
                pending.append(threads.submit(ask, chunk))
                while pending and (len(pending) == concurrency or pending[0].done()):
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            abandoned.set()
            threads.shutdown(wait=False, cancel_futures=True)


async def in_order_async(
    ask: Callable[[Chunk], Coroutine[Any, Any, Iterable[Item]]], source: AsyncGenerator[Chunk, None], concurrency: int
) -> AsyncGenerator[Item, None]:
    """Do the same as `in_order` with tasks; when the generator ends or is closed, they are cancelled and awaited."""
    pending: deque[asyncio.Task[Iterable[Item]]] = deque()
    try:
        async with aclosing(source):
            async for chunk in source:
                pending.append(asyncio.create_task(ask(chunk)))
                while pending and (len(pending) == concurrency or pending[0].done()):
                    for item in await pending.popleft():
                        yield item
        while pending:
            for item in await pending.popleft():
                yield item
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
