"""A vendor's API as teachers use it: one call after the other is paid for once, paced, retried and within the budget.

What a vendor's requests and responses look like is in the file of its kind of teacher.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from string import Template
from typing import Any, Generic, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, field_validator

from distill.teachers.account import Account, Paid
from distill.teachers.api.bodies import ENCODINGS
from distill.teachers.api.connections import Connections
from distill.teachers.api.gateways import Draws, Gateway
from distill.teachers.api.http import (
    MOST_BYTES,
    PATIENCE,
    ApiError,
    UnreadableError,
    is_local,
    persistent,
    send,
    unanswered,
)
from distill.teachers.api.pricing import Price, Usage, known_price
from distill.teachers.api.rate_limit import Pace, told
from distill.teachers.api.rejections import Rejection
from distill.teachers.errors import TeacherError
from distill.teachers.prompting.prompt import Prompt

T = TypeVar("T")

log = logging.getLogger(__name__)

_KEYS = frozenset({"authorization", "api-key", "x-api-key"})
_CONNECT = 10.0
"""Seconds for a connection: less than for an answer, so that a server that is not there is not taken for a slow one."""

_TOLD = 5.0  # seconds: a shorter wait is not worth a line
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_READINGS = 3  # of answers that hold none, as each is paid for
BYTES_PER_TOKEN = 4.0
"""About what a token of English prose takes; for pacing, where a guess will do."""


class Terms(BaseModel):
    """That one has read whether the teacher's terms allow training on its answers, and where one read it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    acknowledged: Literal[True]
    reference: str = Field(min_length=1)


class Batching(BaseModel):
    """How a vendor's batch API is used: how often to look how far a batch is, and how many calls it has at most.

    `calls` is by default what the vendor takes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    interval_seconds: float = Field(default=30.0, gt=0)
    calls: int | None = Field(default=None, ge=1)


class ApiConfig(BaseModel):
    """What every teacher behind an API is told.

    The key is in the environment variable `key_env` or the file `key_file`, never here. `headers` are sent along with
    every call; in their values `$NAME` stands for an environment variable, so that keys may go into them. So is
    `extra_body`. `usd_per_million` may be left out where `prices.yaml` knows the model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: str = Field(repr=False)
    model: str
    key_env: str = Field(repr=False)
    key_file: Path | None = None
    headers: Mapping[str, str] = Field(default={}, repr=False)
    usd_per_million: Price | None = None
    terms: Terms | None = None
    prompt: Prompt = Prompt()
    concurrency: int = Field(default=8, ge=1, le=256)
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    timeout_seconds: float = Field(default=60.0, gt=0)
    attempts: int = Field(default=6, ge=1)
    max_response_bytes: int = Field(default=MOST_BYTES, ge=2**10)
    patience_seconds: float = Field(default=PATIENCE, ge=0)
    extra_body: dict[str, Any] = Field(default={}, repr=False)
    batch: Batching = Batching()

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            url = httpx.URL(value)
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("expected an address such as https://api.example/v1")
        return value

    @field_validator("key_env")
    @classmethod
    def _variable(cls, value: str) -> str:
        if not _VARIABLE.fullmatch(value):
            raise ValueError("expected the name of an environment variable; if this is a key, put it into one")
        return value

    @property
    def address(self) -> str:
        """Where the server is, for people: without a password or a query, which may hold a key."""
        url = httpx.URL(self.base_url)
        return str(url.copy_with(username=None, password=None, query=None, fragment=None))

    @property
    def under_way(self) -> int:
        """Calls that may be under way at once: `concurrency` at the server, and more whose account is being written."""
        return self.concurrency + self.concurrency // 4 + 1

    def answering(self) -> dict[str, Any]:
        """The settings that determine answers; the others say how fast, by whom paid, and at what price."""
        aside = {"key_env", "key_file", "headers", "usd_per_million", "terms", "concurrency", "timeout_seconds"}
        limits = {"attempts", "patience_seconds", "max_response_bytes", "requests_per_minute", "tokens_per_minute"}
        settings = self.model_dump(mode="json", exclude={*aside, *limits, "batch"})
        return {**settings, "prompt": self.prompt.answering()}

    def price(self) -> Price:
        """What its calls cost. Raises TeacherError when that is neither given nor known."""
        return self.usd_per_million or known_price(urlsplit(self.base_url).hostname or "", self.model)

    def key(self) -> str:
        """The key, or nothing for a server that wants none. Raises TeacherError for a key that cannot be had."""
        if self.key_file is None:
            return _sendable(os.environ.get(self.key_env, ""), "the variable that key_env names")
        try:
            return _sendable(self.key_file.read_text(encoding="utf-8"), "the file that key_file names")
        except OSError as error:  # its path is not told: it may be the key itself
            raise TeacherError(
                f"key_file: the file cannot be read ({error.strerror}); give the path of a file that holds the key"
            ) from None
        except ValueError:  # not UTF-8, in a message that would hold it, or a path that no file can have
            raise TeacherError("key_file: the file cannot be read (not UTF-8); correct it") from None

    def own_headers(self) -> dict[str, str]:
        """`headers` with the environment in place. Raises TeacherError for a variable that is not set."""
        if bare := [name for name, value in self.headers.items() if name.lower() in _KEYS and "$" not in value]:
            raise TeacherError(f"headers: {bare[0]} holds a key; put it in a variable and write the variable's $NAME")
        try:
            filled = {name: Template(value).substitute(os.environ) for name, value in self.headers.items()}
        except KeyError:  # which has what follows a $, and that may be of a key
            unset = [name for name, value in self.headers.items() if not _filled(value)]
            raise TeacherError(f"headers: {unset[0]} names a variable that is not set; set it") from None
        except ValueError:
            raise TeacherError("headers: a $ is followed by no variable's name; write $$ for a dollar") from None
        return {name: _sendable(value, f"the header {name}") for name, value in filled.items()}

    def check(self, labels: Sequence[str]) -> None:
        """Raise TeacherError for terms that nobody acknowledged and a prompt that names labels there are not."""
        if self.terms is None and not is_local(self.base_url):
            raise TeacherError(
                f"{self.address} is somebody's service, and some forbid training on their answers. Read its terms, "
                "then add `terms: {acknowledged: true, reference: <where they stand>}` to the teacher"
            )
        if unknown := self.prompt.unknown(labels):
            raise TeacherError(f"teacher.prompt names labels {unknown[:5]} that the task does not have; correct them")


def _filled(value: str) -> bool:
    """Whether every variable that a header's value names is set."""
    return all(name in os.environ for name in Template(value).get_identifiers())


def _sendable(secret: str, what: str) -> str:
    """A key without the space around it. Raises TeacherError, which does not tell it, for one that no header takes."""
    stripped = secret.strip()
    if not (stripped.isascii() and stripped.isprintable()):
        raise TeacherError(f"{what} holds characters that no key has, such as a line break; correct it")
    return stripped


@dataclass(frozen=True, slots=True)
class Request:
    """A call to be made: `sample` tells draws of one and the same question apart, `max_output` bounds its tokens.

    An answer out of somebody's cache will not do where it has to be `fresh`.
    """

    path: str
    body: Mapping[str, Any]
    max_output: int
    sample: int = 0
    fresh: bool = False

    @property
    def most_tokens(self) -> int:
        """A bound on the prompt's tokens: no tokenizer makes more of them than there are bytes."""
        return len(json.dumps(self.body, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A call and how to read its response; one that was answered tells, asked again, whether the server still does."""

    request: Request
    read: Callable[[Mapping[str, Any]], T]


class Priced(Protocol):
    """A teacher whose answers are calls, which can be foreseen, and made in a batch."""

    async def plan(self, text: str, repeat: int = 0) -> Sequence[tuple[Api, Request]]:
        """The calls for a text that can be made now and were not paid for before. None are left once it is answered."""


class Api:
    """Calls to one vendor's API, charged to an account. `usage` reads a response's tokens, where it says them.

    Whoever has seen that the server can be used sets `control`. Before that, every failure is the server's.
    """

    def __init__(
        self,
        config: ApiConfig,
        account: Account,
        *,
        who: str,
        headers: Mapping[str, str],
        usage: Callable[[Mapping[str, Any]], Usage | None],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.who = who
        self.config = config
        self.price = config.price()
        base_url, _, query = config.base_url.partition("?")
        self.client = httpx.AsyncClient(
            base_url=base_url.rstrip("/"),
            params=query,  # such as Azure's api-version
            headers={"accept-encoding": ENCODINGS, **headers, **config.own_headers()},
            timeout=httpx.Timeout(config.timeout_seconds, connect=min(_CONNECT, config.timeout_seconds / 2)),
            transport=transport or Connections(base_url),
        )
        self.account = account
        self.usage = usage
        self.most_bytes = config.max_response_bytes
        self.control: Call[Any] | None = None
        self._attempts = config.attempts
        self._turns = count(1)
        self._answered = 0  # the last turn that was answered
        self._failed: ApiError | None = None  # the last failure of `control`
        self._blaming = asyncio.Lock()
        self._draws = Draws(who)
        self._under_way = asyncio.Semaphore(config.under_way)
        self._at_server = asyncio.Semaphore(config.concurrency)
        self._pace = Pace(config.requests_per_minute, config.tokens_per_minute)

    def key(self, request: Request) -> str:
        """What determines a response: where the question goes, the whole of it, and which draw it is."""
        query = [str(self.client.params)] if self.client.params else []
        parts = [str(self.client.base_url), request.path, request.body, request.sample, *query]
        text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def worst(self, request: Request) -> float:
        """The most that a call can cost, in dollars."""
        return self.price.worst(request.most_tokens, request.max_output)

    async def call(self, request: Request, read: Callable[[Mapping[str, Any]], T]) -> tuple[T, Paid]:
        """What `read` makes of the response, which is asked for only if it was not paid for before.

        A response is kept once `read` takes it; what it raises TeacherError for is paid and not kept, so that a
        server set right is asked again. Once there is a `control`, a text that the server rejects, or gives no answer
        to that can be read, has a Rejection in the place of the response. So has one that the server still fails on
        when it was asked again after others had been answered. Raises ApiError when the call fails for good,
        BudgetError when there is not enough money left.
        """
        key = self.key(request)
        if (paid := await self.account.recall(key)) is not None:
            self._draws.draw(request.body, request.sample, paid.response)
            return read(paid.response), paid
        cost = 0.0
        async with self._under_way:
            for last in (False, True):
                try:
                    return await self._persist(request, key, read, cost)
                except ApiError as error:
                    if self.control is None or error.verdict is None:
                        raise
                    cost = error.cost_usd + await self._blame(self.control, error)
                    if last or not error.retryable:
                        rejected = Rejection("invalid", error.said, doubtful=True).response(error.body)
                        # Not kept: whoever asks may think better.
                        return read(rejected), Paid(rejected, cost, error.seconds)
        raise AssertionError("unreachable: the last round returns or raises")

    async def _persist(
        self, request: Request, key: str, read: Callable[[Mapping[str, Any]], T], spent: float = 0.0
    ) -> tuple[T, Paid]:
        """A call, made again while that may help; what earlier attempts cost is in what the last one did."""
        unread = 0
        async for attempt in persistent(self._attempts, self.config.patience_seconds, self._pace.sleep):
            with attempt:
                try:
                    result, paid = await self._pay(request, key, read, spent)
                except ApiError as error:
                    error.cost_usd = spent = spent + error.cost_usd
                    if isinstance(error, UnreadableError):
                        unread += 1
                        error.retryable = unread < _READINGS and (error.passing or self.control is not None)
                    raise
                return result, paid
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def remember(self, request: Request) -> None:
        """Know an earlier draw, where it was kept, so that a later one is seen to be another."""
        if (paid := await self.account.recall(self.key(request))) is not None:
            self._draws.draw(request.body, request.sample, paid.response)

    @property
    def gateway(self) -> Gateway | None:
        """What stands between here and the server, as far as responses told."""
        return self._draws.gateway

    async def _blame(self, control: Call[Any], error: ApiError) -> float:
        """See that it is the text that an unclear error is about: that others are answered. Gives what that cost.

        Raises ApiError where they are not; several calls that fail together find that out once.
        """
        async with self._blaming:
            if self._answered > error.turn:
                return 0.0
            if self._failed is not None and self._failed.turn > error.turn:
                raise self._failed
            try:
                _, paid = await self._persist(replace(control.request, fresh=False), "", control.read)
            except UnreadableError as worse:
                self._failed = ApiError(
                    f"{self.who} gave answers that could be read before, and gives none now ({worse.why}): see whether "
                    "another model or server has come behind base_url"
                )
                self._failed.turn = worse.turn
                raise self._failed from worse
            except ApiError as worse:
                self._failed = worse
                raise
        return paid.cost_usd

    async def _pay(
        self, request: Request, key: str, read: Callable[[Mapping[str, Any]], T], before: float = 0.0
    ) -> tuple[T, Paid]:
        """One attempt: money is set apart before it and settled after it, whatever comes of it.

        What it brings is kept with what it and those `before` it cost, under the key, where there is one.
        """
        most_tokens = request.most_tokens
        await self._pace.wait(most_tokens / BYTES_PER_TOKEN + request.max_output)
        worst = self.price.worst(most_tokens, request.max_output)
        reservation = await self.account.reserve(worst)
        sent = came = False
        turn, start, cost = 0, time.perf_counter(), 0.0
        headers: list[httpx.Headers] = []

        def heard(given: httpx.Headers) -> None:
            self._pace.heard(given)
            headers.append(given)

        try:
            async with self._at_server:
                turn, start, sent = next(self._turns), time.perf_counter(), True
                response = await send(
                    self.client, request.path, request.body, who=self.who, most=self.most_bytes, heard=heard
                )
            seconds = time.perf_counter() - start
            came, cost = True, self._billed(response, worst)  # what is not said is not taken for nothing
            self._draws.received(headers[-1], response, request.fresh)
            self._draws.draw(request.body, request.sample, response)
            result = self._read(request, response, read)
        except ApiError as error:
            if error.wait is not None and self._pace.hold(error.wait) and error.wait >= _TOLD:
                asked = (
                    "%s answered %s and asks to be left alone for %s; all calls wait, and ask again in a minute at most"
                )
                log.warning(asked, self.who, error.status, told(error.wait))
            error.turn, error.seconds = turn, time.perf_counter() - start
            error.cost_usd = cost = self._billed(error.body, worst if error.charged else 0.0)
            if self.control is None or not key or error.verdict not in ("refused", "invalid"):
                await self.account.settle(reservation, cost)
                raise
            response, seconds = Rejection(error.verdict, error.said).response(error.body), error.seconds
            result = read(response)
        except BaseException:  # cancelled, say, which the server need not notice
            await self.account.settle(reservation, cost if came else worst if sent else 0.0)
            raise
        else:
            self._answered = max(self._answered, turn)
        paid = Paid(response, before + cost, seconds)
        await self.account.settle(reservation, cost, key, paid if key else None)
        return result, paid

    @property
    def held(self) -> float:
        """For how many seconds calls are held, because the server asked to be left alone."""
        return self._pace.held

    async def sleep(self, seconds: float) -> None:
        """Wait before another attempt. Raises TeacherError when stopped."""
        await self._pace.sleep(seconds)

    def stop(self) -> None:
        """Make no further call: those that wait for their turn, or for another attempt, raise TeacherError."""
        self._pace.stop()

    def _read(self, request: Request, response: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]) -> T:
        """What `read` makes of a response. Raises ApiError for one that holds an error in the place of an answer."""
        try:
            return read(response)
        except UnreadableError as error:
            sent = self.client.build_request("POST", request.path, json=request.body)
            raise unanswered(response, error, self.who, sent) from error

    def _billed(self, body: object, unsaid: float) -> float:
        """What a response cost by the usage that it tells, or `unsaid` where it tells none."""
        usage = self.usage(body) if isinstance(body, Mapping) else None
        return unsaid if usage is None else self.price.of(usage)

    async def aclose(self) -> None:
        """Close the connections."""
        await self.client.aclose()
