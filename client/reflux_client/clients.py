"""The clients: one that blocks and one for asyncio. They wait, and share all else."""

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
    Outcome,
    Result,
    about,
    read_classification,
    read_json,
    read_object,
)
from reflux_client.batches import Batch, batches, batches_async, check, in_order, in_order_async
from reflux_client.calls import Call, Calls, Retry, Variant, authorize, may_pass

LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=30.0)
"""Connections stay open between bursts, and are closed before the service, or a proxy in front of it, closes them."""


class Client:
    """A blocking client with a pool of connections. Threads may share it.

    `timeout` is the number of seconds that a call may take with all its attempts and pauses; the service is told, and
    drops what nobody waits for. It bounds each wait by what is left as the wait begins, so that only a server that
    sends its answer in drops can exceed it. One attempt spends no more than `connect_timeout` of it on connecting.
    `api_key` is by default that of the environment variable `REFLUX_API_KEY`. `limits` are those of the pool unless
    there is a `transport`, which has its own. Other `options` are those of `httpx.Client`.
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
        """Classify one text or several, all or none. Raises RefluxError.

        `top_k` labels are listed for each. `variant` chooses between a stable bundle and a candidate for its place.
        `timeout` is for this call.
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
        """Classify any number of texts, `batch_size` per request; gives their results in order.

        Texts are taken as they are needed, by the thread that takes the results; there are never more than
        `concurrency` batches of texts or results in memory. When a batch fails, the results before it are given, then
        its RefluxError is raised, whose `texts` says which they are. Leaving early begins nothing more, and waits for
        the attempts that are under way.
        """
        check(texts, batch_size, concurrency)
        abandoned = threading.Event()

        def ask(batch: Batch) -> tuple[Result, ...]:
            call = self._calls.classify(batch.texts, top_k, logits, embedding, variant)
            with about(batch.indices):
                return read_classification(self._ask(call, abandoned.wait), call.texts).results

        return in_order(ask, batches(texts, batch_size), concurrency, abandoned)

    def model(self) -> dict[str, Any]:
        """The manifest of the bundle that is served. Raises RefluxError."""
        return read_object(self._ask(self._calls.get("model"), self._sleep))

    def gap(self) -> dict[str, Any]:
        """The live distillation gap, with its interval. Raises RefluxError."""
        return read_object(self._ask(self._calls.get("gap"), self._sleep))

    def ready(self) -> bool:
        """Whether the service can be asked now: False when it says no, or nothing. Raises RefluxError for all else."""
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

    def _ask(self, call: Call, sleep: Callable[[float], object]) -> Outcome:
        """Ask until there is nothing to ask again, or `sleep` says True: that no one waits any more."""
        while True:
            outcome: Outcome
            try:
                outcome = self._http.send(call.attempt())
            except httpx.RequestError as error:
                outcome = error
            pause = call.pause(outcome)
            if pause is None or sleep(pause):
                return outcome


class AsyncClient:
    """The same for asyncio; tasks may share it."""

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
        """Classify one text or several, all or none. Raises RefluxError; see `Client.classify`."""
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

        Leaving early cancels what is in flight: at once with `contextlib.aclosing`, else when asyncio closes the
        generator.
        """
        check(texts, batch_size, concurrency)

        async def ask(batch: Batch) -> tuple[Result, ...]:
            call = self._calls.classify(batch.texts, top_k, logits, embedding, variant)
            with about(batch.indices):
                return read_classification(await self._ask(call), call.texts).results

        return in_order_async(ask, batches_async(texts, batch_size), concurrency)

    async def model(self) -> dict[str, Any]:
        """The manifest of the bundle that is served. Raises RefluxError."""
        return read_object(await self._ask(self._calls.get("model")))

    async def gap(self) -> dict[str, Any]:
        """The live distillation gap, with its interval. Raises RefluxError."""
        return read_object(await self._ask(self._calls.get("gap")))

    async def ready(self) -> bool:
        """Whether the service can be asked now; see `Client.ready`."""
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

    async def _ask(self, call: Call) -> Outcome:
        while True:
            outcome: Outcome
            try:
                outcome = await self._http.send(call.attempt())
            except httpx.RequestError as error:
                outcome = error
            pause = call.pause(outcome)
            if pause is None:
                return outcome
            await self._sleep(pause)


def _ready(outcome: Outcome) -> bool:
    if may_pass(outcome) or isinstance(outcome, httpx.TimeoutException):
        return False
    read_json(outcome)
    return True
