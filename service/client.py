"""The Python client: what production systems import to call Reflux. Needs httpx and nothing else of ours.

with Client("http://reflux:8080") as client:
    print(client.classify("where is my parcel?").results[0].label)
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

RETRIED = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Score:
    """A label and its probability, in [0, 1]."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one text: its label, the `top` labels best first, and how much of it was read."""

    label: str
    score: float
    top: tuple[Score, ...]
    tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer to one request: a result per text, in order, and the bundle `version` that gave them."""

    request_id: str
    model: str
    version: str
    results: tuple[Result, ...]

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read the body of an answer. Raises KeyError or TypeError when it is not one."""
        results = tuple(_result(result) for result in data["results"])
        return cls(data["request_id"], data["model"], data["version"], results)


class RefluxError(Exception):
    """No answer. `code` is the service's word for it, or `unreachable`, `timeout` or `unexpected_answer`.

    `status_code` is None when there was no response, `request_id` finds the request in the service's log.
    """

    def __init__(
        self, code: str, message: str, *, status_code: int | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status_code = status_code
        self.request_id = request_id


@dataclass(frozen=True, slots=True)
class Retry:
    """When to ask again. Classifying changes nothing, so it may be repeated, except after a timeout: the time is gone.

    There are up to `attempts` in all. The pause is what `Retry-After` says, else `backoff_seconds` doubled each time
    and shortened by a random part; never more than `longest_seconds`.
    """

    attempts: int = 3
    backoff_seconds: float = 0.1
    longest_seconds: float = 5.0

    def pause(self, attempt: int, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds to wait after attempt number `attempt`, counted from 1; None to give up."""
        if attempt >= self.attempts or isinstance(outcome, httpx.TimeoutException):
            return None
        if isinstance(outcome, httpx.Response):
            if outcome.status_code not in RETRIED:
                return None
            after = outcome.headers.get("retry-after", "")
            if after.isdecimal():
                return min(float(after), self.longest_seconds)
        return min(self.backoff_seconds * 2.0 ** (attempt - 1), self.longest_seconds) * random.uniform(0.5, 1.0)


class Client:
    """A blocking client with a pool of connections. Threads may share it.

    `timeout` is in seconds, for each attempt. `transport` and other `options` are those of `httpx.Client`.
    """

    def __init__(self, base_url: str, *, timeout: float = 10.0, retry: Retry | None = None, **options: Any) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=timeout, **options)
        self._retry = retry or Retry()

    def classify(self, texts: str | Sequence[str], *, top_k: int = 1, request_id: str | None = None) -> Classification:
        """Classify one text or several, all or none. Raises RefluxError."""
        request = _request(self._http, texts, top_k, request_id)
        attempt = 0
        while True:
            attempt += 1
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._http.send(request)
            except httpx.TransportError as error:
                outcome = error
            pause = self._retry.pause(attempt, outcome)
            if pause is None:
                return _read(outcome)
            time.sleep(pause)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio; tasks may share it."""

    def __init__(self, base_url: str, *, timeout: float = 10.0, retry: Retry | None = None, **options: Any) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout, **options)
        self._retry = retry or Retry()

    async def classify(
        self, texts: str | Sequence[str], *, top_k: int = 1, request_id: str | None = None
    ) -> Classification:
        """Classify one text or several, all or none. Raises RefluxError."""
        request = _request(self._http, texts, top_k, request_id)
        attempt = 0
        while True:
            attempt += 1
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._http.send(request)
            except httpx.TransportError as error:
                outcome = error
            pause = self._retry.pause(attempt, outcome)
            if pause is None:
                return _read(outcome)
            await asyncio.sleep(pause)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _request(
    http: httpx.Client | httpx.AsyncClient, texts: str | Sequence[str], top_k: int, request_id: str | None
) -> httpx.Request:
    body = {"text": texts} if isinstance(texts, str) else {"texts": list(texts)}
    headers = {"x-request-id": request_id} if request_id else {}
    return http.build_request("POST", "classify", json={**body, "top_k": top_k}, headers=headers)


def _read(outcome: httpx.Response | httpx.TransportError) -> Classification:
    if isinstance(outcome, httpx.TransportError):
        code = "timeout" if isinstance(outcome, httpx.TimeoutException) else "unreachable"
        raise RefluxError(code, f"{type(outcome).__name__} {outcome}".strip()) from outcome
    try:
        if outcome.is_success:
            return Classification.from_json(outcome.json())
        error = outcome.json()["error"]
        failure = RefluxError(
            error["code"], error["message"], status_code=outcome.status_code, request_id=error["request_id"]
        )
    except (ValueError, KeyError, TypeError) as unreadable:  # not from Reflux: a proxy's page, say
        raise RefluxError(
            "unexpected_answer",
            f"status {outcome.status_code} with a body that Reflux does not send; is the address right?",
            status_code=outcome.status_code,
        ) from unreadable
    raise failure


def _result(data: Any) -> Result:
    # Field by field, so that a service that says more is still understood.
    top = tuple(Score(item["label"], item["score"]) for item in data["top"])
    return Result(data["label"], data["score"], top, data["tokens"], data["truncated"])
