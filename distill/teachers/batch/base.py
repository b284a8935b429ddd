"""What a vendor's batch API is to us: many calls handed in together, at a lower price, and answered within a day.

The calls of a batch carry our own id of the batch and their key in the account as their `custom_id`. Each vendor's
formats are in a file of their own; when to submit, ask and read is `distill.teachers.batch.runner`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, ClassVar, Protocol

import httpx

from distill.teachers.api import bodies
from distill.teachers.api.client import Api, Batching, Request
from distill.teachers.api.http import (
    ApiError,
    failure,
    failure_of,
    fetch,
    json_object,
    received,
    too_large,
    transport_errors,
)
from distill.teachers.api.rejections import words
from distill.teachers.api.scrubbing import scrubbed

SKEW = 3600.0
"""Seconds that a vendor's clock may be away from ours."""

_SLOW = 600.0  # seconds for an upload, or a file of results, to begin to be answered


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is: the vendor's word for it, and how many of its calls have been answered.

    When it has `ended`, `paths` are where its results are, and `problem` says what became of a batch that did not run
    to its end; where that is `final`, it must not be submitted again as it is.
    """

    said: str
    ended: bool
    answered: int
    paths: tuple[str, ...] = ()
    problem: str = ""
    final: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one call: its response, or the problem, which is `final` where asking again will not help.

    `error` is the problem as an ordinary call would have had it, where the vendor tells as much.
    """

    custom_id: str
    response: Mapping[str, Any] | None = None
    problem: str = ""
    final: bool = False
    error: ApiError | None = None


class BatchApi(ABC):
    """One vendor's batches, of calls to `api`. `read` raises UnreadableError for a response without an answer."""

    most_calls: ClassVar[int]
    most_bytes: ClassVar[int]
    start: ClassVar[bytes] = b""
    between: ClassVar[bytes] = b"\n"
    end: ClassVar[bytes] = b"\n"

    def __init__(self, api: Api, settings: Batching, read: Callable[[Mapping[str, Any]], object]) -> None:
        self.api = api
        self.read = read
        self.interval = settings.interval_seconds
        self.limit = min(settings.calls or self.most_calls, self.most_calls)

    @property
    def place(self) -> str:
        """Where its batches are: another server knows nothing of them, and another model has another price."""
        return f"{self.api.who} {self.api.client.base_url}"

    @abstractmethod
    def line(self, custom_id: str, request: Request) -> bytes:
        """A call as it stands in the file that is submitted, which is `start`, lines with `between`, and `end`."""

    @abstractmethod
    async def submit(self, batch: str, file: BinaryIO, size: int) -> str:
        """Submit a file of so many bytes under our id of the batch. Gives the vendor's id. Raises ApiError."""

    @abstractmethod
    async def find(self, batch: str, calls: int, since: float, known: Collection[str]) -> str | None:
        """The vendor's id of a batch that may have been submitted after `since`, in seconds since 1970.

        `known` are the ids of other batches. Raises ApiError.
        """

    @abstractmethod
    async def look(self, vendor_id: str) -> Progress:
        """How far a batch is. Raises ApiError."""

    @abstractmethod
    def row(self, line: Mapping[str, Any]) -> Row:
        """A line of the results. Raises KeyError, TypeError, ValueError or AttributeError for one that is none."""

    def failed(self, custom_id: str, status: int, body: object) -> Row:
        """The row of a call that was answered with this status, whose `body` says why."""
        said = scrubbed(words(body) or "no reason", self.api.client.build_request("POST", ""))
        error = failure_of(status, body, said, self.api.who)
        return Row(custom_id, problem=f"{status}: {said}", final=not error.retryable, error=error)

    async def rows(self, progress: Progress) -> AsyncIterator[Row]:
        """The results of a batch that has ended, in whatever order. Raises ApiError."""
        for path in progress.paths:
            async for line in self.lines(path):
                with shaped(self.api.who):
                    row = self.row(line)
                yield row

    async def get(self, path: str, **query: str | int) -> dict[str, Any]:
        """A JSON object. Raises ApiError."""
        who, most = self.api.who, self.api.most_bytes
        return json_object(await fetch(self.api.client, "GET", path, who=who, most=most, params=query), who)

    async def post(self, path: str, **content: Any) -> dict[str, Any]:
        """What comes back for what is sent, a JSON object. Raises ApiError."""
        who, most = self.api.who, self.api.most_bytes
        response = await fetch(self.api.client, "POST", path, who=who, most=most, timeout=self.patience, **content)
        return json_object(response, who)

    async def lines(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects of a file of lines, as they come in; the file may be large, but no line. Raises ApiError."""
        who, most = self.api.who, self.api.most_bytes
        with transport_errors(who):
            async with self.api.client.stream("GET", path, timeout=self.patience) as response:
                if response.status_code != 200:
                    raise failure(await received(response, who, most), who)
                try:
                    async for line in bodies.lines(response, most):
                        yield self._object(line)
                except bodies.TooLargeError:
                    raise too_large(who, most) from None

    @property
    def patience(self) -> httpx.Timeout:
        """How long to wait for what is large: longer than for a call, but no longer to be connected."""
        usual = self.api.client.timeout
        return httpx.Timeout(max(_SLOW, usual.read or 0.0), connect=usual.connect)

    def _object(self, line: bytes) -> dict[str, Any]:
        with shaped(self.api.who):
            data = json.loads(line)
            if not isinstance(data, dict):
                raise TypeError("no object")
        return data


class Batched(Protocol):
    """A teacher whose calls can be made in batches."""

    @property
    def name(self) -> str:
        """Kind and model."""

    @property
    def version(self) -> str:
        """What determines its answers."""

    async def prepare(self) -> None:
        """See that the server can be used like this, before many calls are paid for. Raises TeacherError."""

    async def plan(self, text: str, repeat: int = 0) -> Sequence[tuple[Api, Request]]:
        """The calls for a text that can be made now and were not paid for before."""

    def batch_apis(self) -> Sequence[BatchApi]:
        """The batch APIs of its vendors, one for each API that it calls."""


@contextmanager
def shaped(who: str) -> Iterator[None]:
    """Raises ApiError for what is not of the shape that a batch API gives."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ApiError(
            f"{who} gave something that is no batch, and no line of results ({type(error).__name__}: {error}); is "
            "base_url that of an API with batches?",
            retryable=True,
            charged=True,
        ) from error


def created(value: object) -> float:
    """When a batch was created, as the vendor tells it, in seconds since 1970."""
    if isinstance(value, str):
        return datetime.fromisoformat(value).timestamp()
    return float(value) if isinstance(value, (int, float)) else 0.0
