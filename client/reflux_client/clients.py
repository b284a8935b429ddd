"""The blocking client and the asyncio client. They differ only in how they send and wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from reflux_client.answers import (
    Classification,
    Reply,
    Result,
    about,
    read_classification,
    read_json,
    read_object,
)
from reflux_client.calls import Call, Calls, Retry, Variant, authorize, may_pass
from reflux_client.chunks import Chunk, check, chunks, chunks_async, in_order, in_order_async

LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=30.0)
"""Idle connections expire before the service, or a proxy in front of it, closes them."""


class Client:
    """A blocking client with a pool of connections. Threads may share it.

    `timeout` is the number of seconds that a call may take with all its attempts and pauses. The service is told the
    deadline and drops requests that have passed it. Each wait is bounded by the time left when it starts, so only a
    server that sends its response in small pieces can exceed `timeout`. `connect_timeout` bounds connecting, in seconds
    per attempt. `api_key` defaults to the environment variable `REFLUX_API_KEY`. `limits` apply to the pool, unless a
    `transport` is given, which has its own. Other `options` are those of `httpx.Client`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: float = 10.0,
        connect_timeout: float = 3.0,
        retry: Retry | None = None,
        limits: httpx.Limits = LIMITS,
        transport: httpx.BaseTransport | None = None,
        **options: Any,
    ) -> None:
        self._http = httpx.Client(base_url=base_url, limits=limits, transport=transport, **options)
        authorize(self._http.headers, api_key)
        self._calls = Calls(self._http, retry or Retry(), timeout, connect_timeout)
        self._sleep: Callable[[float], object] = time.sleep

    def classify(
        self,
        texts: str | Sequence[str],
        *,
        top_k: int = 1,
        logits: bool = False,
        embedding: bool = False,
        variant: Variant | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Classification:
        """Classify one text or several in one request. Raises RefluxError; then no text has a result.

        `top_k` labels are listed for each text. `variant` chooses between the stable bundle and a candidate. `timeout`
        replaces the client's for this call.
        """
        call = self._calls.classify(texts, top_k, logits, embedding, variant, request_id, timeout)
        return read_classification(self._ask(call, self._sleep), call.texts)

    def classify_many(
        self,
        texts: Iterable[str],
        *,
        batch_size: int = 32,
        concurrency: int = 4,
        top_k: int = 1,
        logits: bool = False,
        embedding: bool = False,
        variant: Variant | None = None,
    ) -> Generator[Result, None, None]:
        """Classify any number of texts, `batch_size` per request, and yield their results in order.

        Texts are taken from the iterable as needed, by the thread that takes the results. At most `concurrency` chunks
        of texts or results are in memory. If a request fails, the results before it are yielded first, then its
        RefluxError is raised, with the positions of its texts in `texts`. Closing the generator early starts no further
        attempt and waits for those that run.
        """
        check(texts, batch_size, concurrency)
        abandoned = threading.Event()

        def ask(chunk: Chunk) -> tuple[Result, ...]:
            call = self._calls.classify(chunk.texts, top_k, logits, embedding, variant)
            with about(chunk.indices):
                return read_classification(self._ask(call, abandoned.wait), call.texts).results

        return in_order(ask, chunks(texts, batch_size), concurrency, abandoned)

    def model(self) -> dict[str, Any]:
        """Return the manifest of the served bundle. Raises RefluxError."""
        return read_object(self._ask(self._calls.get("model"), self._sleep))

    def gap(self) -> dict[str, Any]:
        """Return the live distillation gap, with its interval. Raises RefluxError."""
        return read_object(self._ask(self._calls.get("gap"), self._sleep))

    def ready(self) -> bool:
        """Return whether the service is ready: False if it says no or does not answer. Raises RefluxError otherwise."""
        return _ready(self._ask(self._calls.probe("readyz"), self._sleep))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, call: Call, sleep: Callable[[float], object]) -> Reply:
        """Send until the reply is final, or `sleep` returns True: nobody waits for the result any more."""
        while True:
            reply: Reply
            try:
                reply = self._http.send(call.attempt())
            except httpx.RequestError as error:
                reply = error
            pause = call.pause(reply)
            if pause is None or sleep(pause):
                return reply


class AsyncClient:
    """The same client for asyncio. Tasks may share it."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: float = 10.0,
        connect_timeout: float = 3.0,
        retry: Retry | None = None,
        limits: httpx.Limits = LIMITS,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, limits=limits, transport=transport, **options)
        authorize(self._http.headers, api_key)
        self._calls = Calls(self._http, retry or Retry(), timeout, connect_timeout)
        self._sleep = asyncio.sleep

    async def classify(
        self,
        texts: str | Sequence[str],
        *,
        top_k: int = 1,
        logits: bool = False,
        embedding: bool = False,
        variant: Variant | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Classification:
        """Classify one text or several in one request; see `Client.classify`. Raises RefluxError."""
        call = self._calls.classify(texts, top_k, logits, embedding, variant, request_id, timeout)
        return read_classification(await self._ask(call), call.texts)

    def classify_many(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        batch_size: int = 32,
        concurrency: int = 4,
        top_k: int = 1,
        logits: bool = False,
        embedding: bool = False,
        variant: Variant | None = None,
    ) -> AsyncGenerator[Result, None]:
        """Classify any number of texts; see `Client.classify_many`.

        Closing the generator early cancels the requests in flight: at once inside `contextlib.aclosing`, otherwise when
        asyncio closes it.
        """
        check(texts, batch_size, concurrency)

        async def ask(chunk: Chunk) -> tuple[Result, ...]:
            call = self._calls.classify(chunk.texts, top_k, logits, embedding, variant)
            with about(chunk.indices):
                return read_classification(await self._ask(call), call.texts).results

        return in_order_async(ask, chunks_async(texts, batch_size), concurrency)

    async def model(self) -> dict[str, Any]:
        """Return the manifest of the served bundle. Raises RefluxError."""
        return read_object(await self._ask(self._calls.get("model")))

    async def gap(self) -> dict[str, Any]:
        """Return the live distillation gap, with its interval. Raises RefluxError."""
        return read_object(await self._ask(self._calls.get("gap")))

    async def ready(self) -> bool:
        """Return whether the service is ready; see `Client.ready`."""
        return _ready(await self._ask(self._calls.probe("readyz")))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _ask(self, call: Call) -> Reply:
        while True:
            reply: Reply
            try:
                reply = await self._http.send(call.attempt())
            except httpx.RequestError as error:
                reply = error
            pause = call.pause(reply)
            if pause is None:
                return reply
            await self._sleep(pause)


def _ready(reply: Reply) -> bool:
    if may_pass(reply) or isinstance(reply, httpx.TimeoutException):
        return False
    read_json(reply)
    return True
