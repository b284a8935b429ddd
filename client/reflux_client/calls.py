"""What both clients share: building requests, deadlines and the retry policy. Nothing here does I/O or waits."""

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

from reflux_client.answers import Reply

Variant = Literal["stable", "candidate"]

KEY_VARIABLE = "REFLUX_API_KEY"

_KEY = re.compile(r"[!-~]*")
_SECONDS = re.compile(r"\d+(\.\d*)?", re.ASCII)
_STATUSES = frozenset({429, 503})
_ERRORS = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout, httpx.PoolTimeout)
_SHORTEST_WAIT = 0.001
"""Seconds. A socket with timeout 0 is non-blocking and fails with another error than a timeout."""


def may_pass(reply: Reply) -> bool:
    """Return whether another attempt may succeed: the service is busy or away, or the connection failed."""
    if isinstance(reply, httpx.Response):
        return reply.status_code in _STATUSES
    return isinstance(reply, _ERRORS)


@dataclass(frozen=True, slots=True)
class Retry:
    """The retry policy: which failures are retried, how often, and after which pause.

    Every request of this client is idempotent, so it is sent again after status 429 or 503, if no connection could be
    made, and if the connection broke, even though the service may have done the work already. It is not sent again
    after another status, which would be the same again, nor after a timeout while sending or reading, because the
    deadline has passed then.

    There are at most `attempts` attempts in all. The pause is that of `Retry-After` (seconds or a date), else
    `backoff_seconds`, doubled each time up to `longest_seconds` and multiplied by a random factor in [0.5, 1]. If the
    pause would not end before the deadline, the result of the last attempt is final.
    """

    attempts: int = 3
    backoff_seconds: float = 0.1
    longest_seconds: float = 5.0

    def pause(self, attempt: int, reply: Reply, left: float) -> float | None:
        """Return the seconds to wait after attempt number `attempt`, counted from 1; None to give up.

        `left` is the number of seconds until the deadline.
        """
        if attempt >= self.attempts or not may_pass(reply):
            return None
        asked = _retry_after(reply.headers) if isinstance(reply, httpx.Response) else None
        pause = self._backoff(attempt) if asked is None else asked
        return pause if pause < left else None

    def _backoff(self, attempt: int) -> float:
        doubled = self.backoff_seconds * 2.0 ** min(attempt - 1, 32)
        return min(doubled, self.longest_seconds) * random.uniform(0.5, 1.0)


class Deadline(Mapping[str, float]):
    """The deadline of a call, `seconds` from now, for all its attempts and pauses together.

    httpx takes it as the timeouts of a request: it looks up each timeout when it starts to wait, and so gets the time
    that is left then, for a connection at most `connect` seconds. Raises ValueError if `seconds` is not finite.
    """

    def __init__(self, seconds: float, connect: float, clock: Callable[[], float]) -> None:
        if not math.isfinite(seconds):
            raise ValueError(f"timeout must be a finite number of seconds, not {seconds}")
        self._clock = clock
        self._end = clock() + seconds
        self._connect = connect

    def left(self) -> float:
        """Return the seconds until the deadline; 0 or less once it has passed."""
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
    """One request, its retry policy, and how many attempts were made."""

    request: httpx.Request
    retry: Retry
    deadline: Deadline
    texts: int = 0
    """The number of texts in the request."""
    attempts: int = 0

    def attempt(self) -> httpx.Request:
        """Return the request of the next attempt; a header tells the service the time left.

        Raises httpx.TimeoutException if the deadline has passed.
        """
        left = self.deadline.left()
        if left <= 0:
            raise httpx.TimeoutException("the deadline passed before the request was sent")
        self.attempts += 1
        self.request.headers["x-request-timeout-ms"] = str(max(1, int(left * 1000)))
        return self.request

    def pause(self, reply: Reply) -> float | None:
        """Return the seconds to wait before the next attempt, or None if `reply` is final."""
        return self.retry.pause(self.attempts, reply, self.deadline.left())


@dataclass(frozen=True, slots=True)
class Calls:
    """Builds the calls of a client. `timeout` and `connect_timeout` are in seconds."""

    http: httpx.Client | httpx.AsyncClient
    retry: Retry
    timeout: float
    connect_timeout: float
    clock: Callable[[], float] = field(default=time.monotonic)

    def __post_init__(self) -> None:
        if not (0 < self.timeout < math.inf and 0 < self.connect_timeout < math.inf):
            raise ValueError(
                f"timeout and connect_timeout must be seconds above 0, not {self.timeout} and {self.connect_timeout}"
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
        """Build `POST /classify`."""
        body: dict[str, Any] = {"text": texts} if isinstance(texts, str) else {"texts": list(texts)}
        body["top_k"] = top_k
        # Sent only if wanted: an older service rejects keys that it does not know.
        body |= {key: True for key, wanted in (("logits", logits), ("embedding", embedding)) if wanted}
        named = {"x-request-id": request_id, "x-reflux-variant": variant}
        headers = {name: value for name, value in named.items() if value is not None}
        call = self._call("POST", "classify", self.retry, timeout, json=body, headers=headers)
        call.texts = len(body.get("texts", [texts]))
        return call

    def get(self, path: str) -> Call:
        """Build `GET` of a path."""
        return self._call("GET", path, self.retry)

    def probe(self, path: str) -> Call:
        """Build `GET` of a path, without retries."""
        return self._call("GET", path, Retry(attempts=1))

    def _call(self, method: str, path: str, retry: Retry, timeout: float | None = None, **content: Any) -> Call:
        deadline = Deadline(self.timeout if timeout is None else timeout, self.connect_timeout, self.clock)
        request = self.http.build_request(method, path, extensions={"timeout": deadline}, **content)
        return Call(request, retry, deadline)


def authorize(headers: httpx.Headers, api_key: str | None) -> None:
    """Add `api_key`, or the environment's if it is None, unless the headers have a key.

    Raises ValueError, without the key in its message, if no header can carry the key.
    """
    key = os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key
    if not _KEY.fullmatch(key):
        where = KEY_VARIABLE if api_key is None else "api_key"
        raise ValueError(f"{where} has characters that no header can carry; does it contain a space or a line end?")
    if key:
        headers.setdefault("authorization", f"Bearer {key}")


def _retry_after(headers: httpx.Headers) -> float | None:
    """Return the seconds of `Retry-After`; None if the header is missing or malformed."""
    value = headers.get("retry-after", "")
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        # Compared with the server's own clock if it sent its date.
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
