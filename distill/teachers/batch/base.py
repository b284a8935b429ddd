"""The interface of vendors' batch APIs: many calls submitted together, at a lower price, and answered within a day.

The `custom_id` of a call consists of our own id of the batch and the call's key in the account. Vendors' formats are in
files of their own.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, ClassVar, Protocol

import httpx

from distill.teachers.api import bodies
from distill.teachers.api.client import Api, ApiRequest, Reader
from distill.teachers.api.config import BatchConfig
from distill.teachers.api.errors import ApiError, error_of, error_of_status, too_large, transport_errors
from distill.teachers.api.http import fetch, json_object, read_body
from distill.teachers.api.rejections import message_of
from distill.teachers.api.scrubbing import scrubbed
from distill.teachers.api.teacher import Calling

CLOCK_SKEW = 3600.0
"""Seconds by which a vendor's clock may differ from ours."""

_SLOW_TIMEOUT = 600.0  # seconds without progress of an upload or a file of results


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """The progress of a batch: whether it has `ended`, and how many of its calls were answered.

    `paths` has the files of results of a batch that has ended, `problem` why it did not run to its end. If that is
    `final`, its calls must not be submitted again as they are.
    """

    ended: bool
    answered: int
    paths: tuple[str, ...] = ()
    problem: str = ""
    final: bool = False


@dataclass(frozen=True, slots=True)
class ResultRow:
    """The result of one call: its response, or the problem, which is `final` if a retry cannot help.

    `error` is the error that an ordinary call would have had, if the vendor gives enough details.
    """

    custom_id: str
    response: Mapping[str, Any] | None = None
    problem: str = ""
    final: bool = False
    error: ApiError | None = None


class BatchApi(ABC):
    """A vendor's batch API for calls to `api`; `read` reads a call's response."""

    max_calls: ClassVar[int]
    max_bytes: ClassVar[int]
    start: ClassVar[bytes] = b""
    between: ClassVar[bytes] = b"\n"
    end: ClassVar[bytes] = b"\n"

    def __init__(self, api: Api, settings: BatchConfig, read: Reader[object]) -> None:
        self.api = api
        self.read = read
        self.interval = settings.interval_seconds
        self.limit = min(settings.calls or self.max_calls, self.max_calls)

    @property
    def place(self) -> str:
        """The server and the model of its batches: other servers do not know them, and other models differ in price."""
        return f"{self.api.name} {self.api.client.base_url}"

    @abstractmethod
    def line(self, custom_id: str, request: ApiRequest) -> bytes:
        """A call in the file to submit, which consists of `start`, lines separated by `between`, and `end`."""

    @abstractmethod
    async def submit(self, batch: str, file: BinaryIO, size: int) -> str:
        """Submit a file of `size` bytes under our id of the batch. Returns the vendor's id. Raises ApiError."""

    @abstractmethod
    async def find(self, batch: str, calls: int, since: float, known: Collection[str]) -> str | None:
        """Find the vendor's id of a batch of `calls` calls that may have been submitted after `since`.

        `since` is in seconds since 1970; `known` are the ids of other batches. Raises ApiError.
        """

    @abstractmethod
    async def look(self, vendor_id: str) -> BatchProgress:
        """The progress of a batch. Raises ApiError."""

    @abstractmethod
    def row(self, line: Mapping[str, Any]) -> ResultRow:
        """Read a line of the results. Raises KeyError, TypeError, ValueError or AttributeError for another format."""

    def failed(self, custom_id: str, status: int, body: object) -> ResultRow:
        """The row of a call that failed with this status and body."""
        reason = scrubbed(message_of(body) or "no reason", self.api.client.build_request("POST", ""))
        error = error_of_status(status, body, reason, self.api.name)
        return ResultRow(custom_id, problem=f"{status}: {reason}", final=not error.retryable, error=error)

    def unknown_status(self, vendor_id: str, status: str) -> ApiError:
        """The error for a status that the vendor does not document."""
        return ApiError(
            f"{self.api.name} gives batch {vendor_id} the status {status!r}, which is not known", retryable=True
        )

    def id_of(self, item: Mapping[str, Any]) -> str:
        """The vendor's id of a batch. Raises ApiError for an item without one."""
        vendor_id = item.get("id")
        if not isinstance(vendor_id, str) or not vendor_id:
            raise ApiError(f"{self.api.name} made a batch without an id; is base_url right?", retryable=True)
        return vendor_id

    async def rows(self, progress: BatchProgress) -> AsyncIterator[ResultRow]:
        """Yield the results of a batch that has ended, in any order. Raises ApiError."""
        for path in progress.paths:
            async for line in self.lines(path):
                with format_errors(self.api.name):
                    row = self.row(line)
                yield row

    async def get(self, path: str, **query: str | int) -> dict[str, Any]:
        """Get a JSON object. Raises ApiError."""
        return await self._fetch("GET", path, params=query)

    async def post(self, path: str, **content: Any) -> dict[str, Any]:
        """Send content and return the JSON object that comes back. Raises ApiError."""
        return await self._fetch("POST", path, timeout=self._timeout, **content)

    async def lines(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the JSON objects of a file of lines as they come in; each line is limited in size. Raises ApiError."""
        server, max_bytes = self.api.name, self.api.max_bytes
        with transport_errors(server):
            async with self.api.client.stream("GET", path, timeout=self._timeout) as response:
                if response.status_code != 200:
                    raise error_of(await read_body(response, server, max_bytes), server)
                try:
                    async for line in bodies.lines(response, max_bytes):
                        yield self._object(line)
                except bodies.TooLargeError:
                    raise too_large(server, max_bytes) from None

    async def _fetch(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        server = self.api.name
        response = await fetch(self.api.client, method, path, server=server, max_bytes=self.api.max_bytes, **content)
        return json_object(response, server)

    @property
    def _timeout(self) -> httpx.Timeout:
        """The timeout for large files: longer than for a call, except for the connection."""
        usual = self.api.client.timeout
        return httpx.Timeout(max(_SLOW_TIMEOUT, usual.read or 0.0), connect=usual.connect)

    def _object(self, line: bytes) -> dict[str, Any]:
        with format_errors(self.api.name):
            data = json.loads(line)
            if not isinstance(data, dict):
                raise TypeError("no object")
        return data


class BatchTeacher(Calling, Protocol):
    """A teacher, or what writes a teacher's paraphrases, whose calls can be made in batches."""

    async def prepare(self) -> None:
        """Check that the server can be used, before many calls are paid for. Raises TeacherError."""

    def batch_apis(self) -> Sequence[BatchApi]:
        """The batch APIs of its vendors, one for each API that it calls."""


@contextmanager
def format_errors(server: str) -> Iterator[None]:
    """Turn the errors of reading an unexpected format into ApiError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ApiError(
            f"{server} gave neither a batch nor a line of results ({type(error).__name__}: {error}); is "
            "base_url that of an API with batches?",
            retryable=True,
            charged=True,
        ) from error


def created(value: object) -> float:
    """The vendor's time of creation of a batch in seconds since 1970; 0 if it is missing."""
    if isinstance(value, str):
        return datetime.fromisoformat(value).timestamp()
    return float(value) if isinstance(value, (int, float)) else 0.0
