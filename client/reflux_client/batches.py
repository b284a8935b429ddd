"""An iterable answered in batches, a few at a time and in order, by threads or by tasks. What answers is not here."""

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

Answer = TypeVar("Answer")


class Batch(NamedTuple):
    """Some of the texts, and which of all they are, counted from 0."""

    indices: range
    texts: list[str]


def check(texts: object, batch_size: int, concurrency: int) -> None:
    """Raises TypeError or ValueError for what cannot be classified in batches."""
    if isinstance(texts, str):
        raise TypeError("texts: give an iterable of texts; this is one, for which there is classify")
    if batch_size < 1 or concurrency < 1:
        raise ValueError(f"batch_size and concurrency are at least 1, not {batch_size} and {concurrency}")


def batches(texts: Iterable[str], size: int) -> Iterator[Batch]:
    """The texts by `size`; fewer in the last."""
    start, rest = 0, iter(texts)
    while taken := list(islice(rest, size)):
        yield Batch(range(start, start + len(taken)), taken)
        start += len(taken)


async def batches_async(texts: Iterable[str] | AsyncIterable[str], size: int) -> AsyncGenerator[Batch, None]:
    """The same, of an iterable that may be asynchronous."""
    if not isinstance(texts, AsyncIterable):
        for batch in batches(texts, size):
            yield batch
        return
    start, taken = 0, list[str]()
    async for text in texts:
        taken.append(text)
        if len(taken) == size:
            yield Batch(range(start, start + size), taken)
            start, taken = start + size, []
    if taken:
        yield Batch(range(start, start + len(taken)), taken)


def in_order(
    ask: Callable[[Batch], Iterable[Answer]], source: Iterator[Batch], concurrency: int, abandoned: threading.Event
) -> Generator[Answer, None, None]:
    """The answers to the batches of `source`, of which up to `concurrency` are asked for at once.

    However this ends, no thread is left. `abandoned` is set for those that still run, and they are waited for.
    """
    asked: deque[Future[Iterable[Answer]]] = deque()
    with ThreadPoolExecutor(concurrency, thread_name_prefix="reflux") as threads:
        try:
            for batch in source:
                asked.append(threads.submit(ask, batch))
                while asked and (len(asked) == concurrency or asked[0].done()):
                    yield from asked.popleft().result()
            while asked:
                yield from asked.popleft().result()
        finally:
            abandoned.set()
            threads.shutdown(wait=False, cancel_futures=True)


async def in_order_async(
    ask: Callable[[Batch], Coroutine[Any, Any, Iterable[Answer]]], source: AsyncGenerator[Batch, None], concurrency: int
) -> AsyncGenerator[Answer, None]:
    """The same with tasks, which are cancelled and awaited however this ends."""
    asked: deque[asyncio.Task[Iterable[Answer]]] = deque()
    try:
        async with aclosing(source):
            async for batch in source:
                asked.append(asyncio.create_task(ask(batch)))
                while asked and (len(asked) == concurrency or asked[0].done()):
                    for answer in await asked.popleft():
                        yield answer
        while asked:
            for answer in await asked.popleft():
                yield answer
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
