"""How a call is put, how long it may take and when it is repeated. Nothing here waits: both clients share it."""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx

from reflux_client.answers import Outcome

Variant = Literal["stable", "candidate"]

KEY_VARIABLE = "REFLUX_API_KEY"

_KEY = re.compile(r"[!-~]*")
_SECONDS = re.compile(r"\d+(\.\d*)?", re.ASCII)
_STATUSES = frozenset({429, 503})
_ERRORS = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout, httpx.PoolTimeout)
_SHORTEST_WAIT = 0.001
"""Seconds; a socket takes 0 to mean that it shall not wait and fails in another way."""


def may_pass(outcome: Outcome) -> bool:
    """Whether asking again may help: the service is busy or away, or a connection could not be had or broke."""
    if isinstance(outcome, httpx.Response):
        return outcome.status_code in _STATUSES
    return isinstance(outcome, _ERRORS)


@dataclass(frozen=True, slots=True)
class Retry:
    """When to ask again.

    Nothing that this client asks changes anything, so what may pass is asked again: after 429 and 503, after a
    connection that could not be had, and after one that broke, even though the service may have done the work. Never
    after another response, which would be the same again, nor after a timeout while sending or reading: the time is
    gone.

    There are up to `attempts` in all. The pause is what `Retry-After` says, in seconds or as a date, else
    `backoff_seconds`, doubled each time up to `longest_seconds` and shortened by a random part. A pause that would not
    end before the deadline is not begun; what came of the last attempt stands.
    """

    attempts: int = 3
    backoff_seconds: float = 0.1
    longest_seconds: float = 5.0

    def pause(self, attempt: int, outcome: Outcome, left: float) -> float | None:
        """Seconds to wait after attempt number `attempt`, counted from 1; None to give up.

        `left` is the number of seconds to the deadline.
        """
        if attempt >= self.attempts or not may_pass(outcome):
            return None
        asked = _retry_after(outcome.headers) if isinstance(outcome, httpx.Response) else None
        pause = self._backoff(attempt) if asked is None else asked
        return pause if pause < left else None

    def _backoff(self, attempt: int) -> float:
        doubled = self.backoff_seconds * 2.0 ** min(attempt - 1, 32)
        return min(doubled, self.longest_seconds) * random.uniform(0.5, 1.0)


class Deadline(Mapping[str, float]):
    """The end of a call, `seconds` from now, for all attempts and pauses together.

    To httpx it is the timeouts of a request. It looks each one up as it begins to wait and so gets what is left then,
    and for a connection no more than `connect`.
    """

    def __init__(self, seconds: float, connect: float, clock: Callable[[], float]) -> None:
        if not math.isfinite(seconds):
            raise ValueError(f"timeout is a finite number of seconds, not {seconds}")
        self._clock = clock
        self._end = clock() + seconds
        self._connect = connect

    def left(self) -> float:
        """Seconds that are left; not above 0 when it has passed."""
        return self._end - self._clock()

    def __getitem__(self, wait: str) -> float:
        longest = self._connect if wait == "connect" else math.inf
        return max(min(self.left(), longest), _SHORTEST_WAIT)

    def __iter__(self) -> Iterator[str]:
        return iter(("connect", "read", "write", "pool"))

    def __len__(self) -> int:
        return 4


@dataclass(slots=True)
class Call:
    """One request, asked as often as its `retry` and its `deadline` allow."""

    request: httpx.Request
    retry: Retry
    deadline: Deadline
    texts: int = 0
    """How many it asks about."""
    attempts: int = 0

    def attempt(self) -> httpx.Request:
        """The request for one more attempt; it tells the service the time that is left.

        Raises httpx.TimeoutException when there is none.
        """
        left = self.deadline.left()
        if left <= 0:
            raise httpx.TimeoutException("the deadline passed before the request was sent")
        self.attempts += 1
        self.request.headers["x-request-timeout-ms"] = str(max(1, int(left * 1000)))
        return self.request

    def pause(self, outcome: Outcome) -> float | None:
        """Seconds to wait before the next attempt; None when there is none."""
        return self.retry.pause(self.attempts, outcome, self.deadline.left())


@dataclass(frozen=True, slots=True)
class Calls:
    """Puts what a client is asked for as calls."""

    http: httpx.Client | httpx.AsyncClient
    retry: Retry
    timeout: float
    connect_timeout: float
    clock: Callable[[], float] = field(default=time.monotonic)

    def __post_init__(self) -> None:
        if not (0 < self.timeout < math.inf and 0 < self.connect_timeout < math.inf):
            raise ValueError(
                f"timeout and connect_timeout are seconds, above 0, not {self.timeout} and {self.connect_timeout}"
            )

    def classify(
        self,
        texts: str | Sequence[str],
        top_k: int,
        logits: bool,
        embedding: bool,
        variant: Variant | None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Call:
        """`POST /classify`."""
        body: dict[str, Any] = {"text": texts} if isinstance(texts, str) else {"texts": list(texts)}
        body["top_k"] = top_k
        # Only what is wanted, so that a service that does not know these keys can be asked too.
        body |= {key: True for key, wanted in (("logits", logits), ("embedding", embedding)) if wanted}
        named = {"x-request-id": request_id, "x-reflux-variant": variant}
        headers = {name: value for name, value in named.items() if value is not None}
        call = self._call("POST", "classify", self.retry, timeout, json=body, headers=headers)
        call.texts = len(body.get("texts", [texts]))
        return call

    def get(self, path: str) -> Call:
        """`GET` of a path."""
        return self._call("GET", path, self.retry)

    def probe(self, path: str) -> Call:
        """`GET` of a path whose first answer counts."""
        return self._call("GET", path, Retry(attempts=1))

    def _call(self, method: str, path: str, retry: Retry, timeout: float | None = None, **content: Any) -> Call:
        deadline = Deadline(self.timeout if timeout is None else timeout, self.connect_timeout, self.clock)
        request = self.http.build_request(method, path, extensions={"timeout": deadline}, **content)
        return Call(request, retry, deadline)


def authorize(headers: httpx.Headers, api_key: str | None) -> None:
    """Add a key, or that of the environment, unless the headers have one. Raises ValueError, without the key in it."""
    key = os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key
    if not _KEY.fullmatch(key):
        where = KEY_VARIABLE if api_key is None else "api_key"
        raise ValueError(f"{where} has characters that no header can carry; is there a space or a line end in it?")
    if key:
        headers.setdefault("authorization", f"Bearer {key}")


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that `Retry-After` asks for; None where it says nothing that makes sense."""
    value = headers.get("retry-after", "")
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        # By the clock of who wrote it, where that is known.
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
