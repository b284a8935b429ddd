"""Calls a vendor's API: every call is paid for once, rate-limited, retried and kept within the budget.

Vendors' formats are in the files of the teacher kinds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Generic, TypeVar

import httpx

from distill.teachers.account import Account, PaidResponse
from distill.teachers.api.bodies import ENCODINGS
from distill.teachers.api.config import ApiConfig
from distill.teachers.api.connections import Connections
from distill.teachers.api.errors import ApiError, UnreadableError, error_of_unreadable
from distill.teachers.api.gateways import Gateway, OriginChecks
from distill.teachers.api.http import post_json, retrying
from distill.teachers.api.limit_headers import format_seconds
from distill.teachers.api.pricing import Usage
from distill.teachers.api.rate_limit import RateLimiter
from distill.teachers.api.rejections import Rejection

T = TypeVar("T")
Reader = Callable[[Mapping[str, Any]], T]
"""Reads a response. Raises UnreadableError for one without an answer."""

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 10.0
"""Seconds. Shorter than for an answer, so that a server that is down is not mistaken for a slow one."""

_LOGGED_WAIT = 5.0  # seconds: shorter waits are not logged
_READINGS = 3  # attempts that end in unreadable answers, which are paid for
BYTES_PER_TOKEN = 4.0
"""A rough estimate for English prose, good enough for rate limits."""


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A call to make. `sample` distinguishes draws of the same question, `max_output` limits the tokens of the answer.

    If it must be `fresh`, an answer from a cache is not accepted.
    """

    path: str
    body: Mapping[str, Any]
    max_output: int
    sample: int = 0
    fresh: bool = False

    @property
    def max_tokens(self) -> int:
        """An upper bound on the tokens of the prompt: the bytes of the body."""
        return len(json.dumps(self.body, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A call and how to read its response. One that was answered once can test whether the server still answers."""

    request: ApiRequest
    read: Reader[T]


class Api:
    """Calls to one API, charged to an account.

    `name` names the teacher in messages; `usage` reads the tokens from a response, if it reports any. Set `control` to
    an answered call once the server has proved usable. Until then, every failure is the server's and never a text's.
    """

    def __init__(
        self,
        config: ApiConfig,
        account: Account,
        *,
        name: str,
        headers: Mapping[str, str],
        usage: Callable[[Mapping[str, Any]], Usage | None],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self.price = config.price()
        base_url, _, query = config.base_url.partition("?")
        self.client = httpx.AsyncClient(
            base_url=base_url.rstrip("/"),
            params=query,  # such as Azure's api-version
            headers={"accept-encoding": ENCODINGS, **headers, **config.filled_headers()},
            timeout=httpx.Timeout(config.timeout_seconds, connect=min(_CONNECT_TIMEOUT, config.timeout_seconds / 2)),
            transport=transport or Connections(base_url),
        )
        self.account = account
        self.usage = usage
        self.max_bytes = config.max_response_bytes
        self.control: Call[Any] | None = None
        self._turns = count(1)
        self._last_answered = 0  # the turn of the last call that was answered
        self._control_failure: ApiError | None = None
        self._checking = asyncio.Lock()
        self._origin = OriginChecks(name)
        self._in_flight = asyncio.Semaphore(config.max_in_flight)
        self._at_server = asyncio.Semaphore(config.concurrency)
        self._limiter = RateLimiter(config.requests_per_minute, config.tokens_per_minute)

    def key(self, request: ApiRequest) -> str:
        """The key of a call in the account: a hash of the address, the whole question and the draw."""
        query = [str(self.client.params)] if self.client.params else []
        parts = [str(self.client.base_url), request.path, request.body, request.sample, *query]
        text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def max_cost(self, request: ApiRequest) -> float:
        """The most that a call can cost, in dollars."""
        return self.price.max_cost(request.max_tokens, request.max_output)

    async def call(self, request: ApiRequest, read: Reader[T]) -> tuple[T, PaidResponse]:
        """Return what `read` makes of the response, which is requested only if it was not paid for before.

        A response is stored once `read` accepts it. One that `read` raises TeacherError for is paid for but not stored,
        so that a corrected server is asked again. Once there is a `control`, a Rejection replaces the response for a
        text that the server rejects, gives no readable answer to, or keeps failing on while others are answered.
        Raises ApiError when the call fails for good, BudgetError when too little money is left.
        """
        key = self.key(request)
        if (paid := await self._recall(request, key)) is not None:
            return read(paid.response), paid
        cost = 0.0
        async with self._in_flight:
            for last in (False, True):
                try:
                    return await self._call_with_retries(request, key, read, cost)
                except ApiError as error:
                    if self.control is None or error.verdict is None:
                        raise
                    cost = error.cost_usd + await self._check_control(self.control, error)
                    if last or not error.retryable:
                        rejected = Rejection("invalid", error.reason, doubtful=True).response(error.body)
                        # Not stored: the caller may decide otherwise.
                        return read(rejected), PaidResponse(rejected, cost, error.seconds)
        raise AssertionError("unreachable: the last round returns or raises")

    async def remember(self, request: ApiRequest) -> None:
        """Register an earlier draw, if it is stored, so that later draws are compared with it."""
        await self._recall(request, self.key(request))

    async def _recall(self, request: ApiRequest, key: str) -> PaidResponse | None:
        if (paid := await self.account.recall(key)) is not None:
            self._origin.check_draw(request.body, request.sample, paid.response)
        return paid

    async def _call_with_retries(
        self, request: ApiRequest, key: str, read: Reader[T], spent: float = 0.0
    ) -> tuple[T, PaidResponse]:
        """Make a call until it succeeds or a retry cannot help. The cost includes all attempts and `spent`."""
        unread = 0
        async for attempt in retrying(self.config.attempts, self.config.patience_seconds, self._limiter.sleep):
            with attempt:
                try:
                    result, paid = await self._attempt(request, key, read, spent)
                except ApiError as error:
                    error.cost_usd = spent = spent + error.cost_usd
                    if isinstance(error, UnreadableError):
                        unread += 1
                        error.retryable = unread < _READINGS and (error.transient or self.control is not None)
                    raise
                return result, paid
        raise AssertionError("unreachable: the last attempt returns or raises")

    @property
    def gateway(self) -> Gateway | None:
        """The gateway in front of the server, if any response showed one."""
        return self._origin.gateway

    async def _check_control(self, control: Call[Any], error: ApiError) -> float:
        """Check that an unclear error concerns the text, by whether the `control` is answered. Returns what that cost.

        Raises ApiError if it is not. Calls that fail together share one check.
        """
        async with self._checking:
            if self._last_answered > error.turn:
                return 0.0
            if self._control_failure is not None and self._control_failure.turn > error.turn:
                raise self._control_failure
            try:
                _, paid = await self._call_with_retries(replace(control.request, fresh=False), "", control.read)
            except UnreadableError as worse:
                self._control_failure = ApiError(
                    f"{self.name} gave readable answers before, and gives none now ({worse.lacks}): check whether "
                    "another model or server is behind base_url now"
                )
                self._control_failure.turn = worse.turn
                raise self._control_failure from worse
            except ApiError as worse:
                self._control_failure = worse
                raise
        return paid.cost_usd

    async def _attempt(
        self, request: ApiRequest, key: str, read: Reader[T], spent_before: float = 0.0
    ) -> tuple[T, PaidResponse]:
        """Make one attempt; money is reserved before it and settled after it, whatever happens.

        The response is stored under `key`, unless it is empty, with its cost and that of the attempts before.
        """
        max_tokens = request.max_tokens
        await self._limiter.wait(max_tokens / BYTES_PER_TOKEN + request.max_output)
        max_cost = self.price.max_cost(max_tokens, request.max_output)
        reservation = await self.account.reserve(max_cost)
        sent = received = False
        turn, start, cost = 0, time.perf_counter(), 0.0
        headers = httpx.Headers()

        def on_headers(given: httpx.Headers) -> None:
            self._limiter.update(given)
            self._origin.recognise(given)
            headers.update(given)

        try:
            async with self._at_server:
                turn, start, sent = next(self._turns), time.perf_counter(), True
                response = await post_json(
                    self.client,
                    request.path,
                    request.body,
                    server=self.name,
                    max_bytes=self.max_bytes,
                    on_headers=on_headers,
                )
            seconds = time.perf_counter() - start
            received, cost = True, self._billed(response, max_cost)  # without a usage, assume the most
            self._origin.check_model(headers)
            self._origin.check_fresh(headers, response, request.fresh)
            self._origin.check_draw(request.body, request.sample, response)
            result = self._read(request, response, read)
        except ApiError as error:
            if error.wait is not None and self._limiter.hold(error.wait) and error.wait >= _LOGGED_WAIT:
                log.warning(
                    "%s answered %s and asks to be left alone for %s; all calls wait, and ask again in a minute at "
                    "most",
                    self.name,
                    error.status,
                    format_seconds(error.wait),
                )
            error.turn, error.seconds = turn, time.perf_counter() - start
            error.cost_usd = cost = self._billed(error.body, max_cost if error.charged else 0.0)
            if self.control is None or not key or error.verdict not in ("refused", "invalid"):
                await self.account.settle(reservation, cost)
                raise
            response, seconds = Rejection(error.verdict, error.reason).response(error.body), error.seconds
            result = read(response)
        except BaseException:  # such as a cancellation, which the server may not notice
            await self.account.settle(reservation, cost if received else max_cost if sent else 0.0)
            raise
        else:
            self._last_answered = max(self._last_answered, turn)
        paid = PaidResponse(response, spent_before + cost, seconds)
        await self.account.settle(reservation, cost, key, paid if key else None)
        return result, paid

    @property
    def held(self) -> float:
        """Seconds for which calls are held because the server asked to wait."""
        return self._limiter.held

    async def sleep(self, seconds: float) -> None:
        """Wait before another attempt. Raises TeacherError when stopped."""
        await self._limiter.sleep(seconds)

    def stop(self) -> None:
        """Start no further call: those that wait for their turn, or for another attempt, raise TeacherError."""
        self._limiter.stop()

    def _read(self, request: ApiRequest, response: Mapping[str, Any], read: Reader[T]) -> T:
        """Read a response. Raises ApiError for one without an answer, or that holds an error."""
        try:
            return read(response)
        except UnreadableError as error:
            sent = self.client.build_request("POST", request.path, json=request.body)
            raise error_of_unreadable(response, error, self.name, sent) from error

    def _billed(self, body: object, otherwise: float) -> float:
        """The cost in dollars by the usage that a response reports, or `otherwise` without one."""
        usage = self.usage(body) if isinstance(body, Mapping) else None
        return otherwise if usage is None else self.price.cost(usage)

    async def aclose(self) -> None:
        """Close the connections."""
        await self.client.aclose()
