"""The API keys in force: who sends a request, and how many texts per second each key may send.

The file is checked at most once per second and read again when it has changed. If it was emptied or deleted, all keys
are revoked; if it is invalid, the previous keys stay in force. Both are logged as errors. Keys are for programs, not
for people: there are no sessions, no passwords, and no role but `admin`.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel

from service.auth.keyfile import KeyEntry, KeyOptions, KeysError, NoKeysError, digest_of, read_keys
from service.errors import ForbiddenError, RateLimitedError, UnauthorisedError
from service.telemetry.metrics import PROBES, Metrics

logger = structlog.get_logger(__name__)

METRICS = "/metrics"
OPEN = (PROBES - {METRICS}) | {"/", "/docs", "/openapi.json"}
"""Paths that need no key for GET and HEAD: probes, and pages without secrets."""

_SAFE_METHODS = ("GET", "HEAD")
_ADMIN = "/admin/"
_ASSETS = ("/docs/", "/console/")
"""What the open pages load."""

_CHECK_SECONDS = 1.0
_REMEDY = "send `Authorization: Bearer KEY` or `X-API-Key: KEY`"


class Caller:
    """A name of the file, with a token bucket that holds the texts of one second at its rate.

    A request is admitted as a whole while the bucket is not empty, and may take more texts than it holds; the debt must
    refill before the next request. So large requests are admitted too, and the mean is still the rate.
    """

    def __init__(self, name: str, options: KeyOptions) -> None:
        self.name = name
        self.options = options
        self._left = options.rate or 0.0
        self._since = 0.0

    def check(self, path: str) -> None:
        """Raise ForbiddenError if the key may not use `path`."""
        if path.startswith(_ADMIN) and not self.options.admin:
            raise ForbiddenError("this key is not an administrator's; use one with the option `admin`")

    def spend(self, texts: int, now: float) -> None:
        """Take `texts` tokens at the monotonic time `now`. Raises RateLimitedError if the bucket is empty."""
        rate = self.options.rate
        if rate is None:
            return
        self._left = min(rate, self._left + (now - self._since) * rate)
        self._since = now
        if self._left <= 0:
            again = int(-self._left / rate) + 1
            raise RateLimitedError(f"this key has {rate:g} texts a second; try again in {again} s", retry_after=again)
        self._left -= texts

    def give_back(self, texts: int) -> None:
        """Return tokens that were spent on texts that are not answered."""
        self._left += texts


class Keys:
    """The keys in force. Use it on the event loop alone. Raises KeysError if the file is invalid."""

    def __init__(self, path: Path, metrics: Metrics, *, metrics_open: bool = True) -> None:
        self._open = OPEN | {METRICS} if metrics_open else OPEN
        self._path = path
        self._metrics = metrics
        self._callers: dict[str, Caller] = {}
        self._seen = _signature(path)
        self._checked = time.monotonic()
        self._apply(read_keys(path))

    def is_open(self, method: str, path: str) -> bool:
        """Return whether a request needs no key."""
        return method in _SAFE_METHODS and (path in self._open or path.startswith(_ASSETS))

    def identify(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Return the caller whose key is in `headers`. Raises UnauthorisedError."""
        self._refresh_if_due(time.monotonic())
        return self._find(_key_of(headers))

    def refresh(self) -> None:
        """Read the file again if it has changed.

        If it is gone or has no key, all keys are revoked. If it is invalid, nothing changes. Each is logged once.
        """
        signature = _signature(self._path)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._apply(read_keys(self._path))
        except NoKeysError as error:
            self._apply([])
            logger.error("all keys are revoked", error=str(error))
        except KeysError as error:
            logger.error("invalid keys file; the previous keys stay in force", error=str(error))

    def _refresh_if_due(self, now: float) -> None:
        # Without keys it checks every time: an editor may empty or delete the file for a moment while it saves.
        if now - self._checked >= _CHECK_SECONDS or not self._digests:
            self._checked = now
            self.refresh()

    def _find(self, key: bytes) -> Caller:
        """Compare with every key in constant time, so that the duration reveals nothing about them."""
        given = digest_of(key)
        found: Caller | None = None
        for digest, caller in self._digests:
            if hmac.compare_digest(digest, given):
                found = caller
        if found is None:
            raise UnauthorisedError(f"this key is not known; {_REMEDY}" if key else f"a key is needed; {_REMEDY}")
        return found

    def _apply(self, entries: Iterable[KeyEntry]) -> None:
        """Put entries in force. A name whose options did not change keeps its token bucket."""
        callers: dict[str, Caller] = {}
        digests: list[tuple[bytes, Caller]] = []
        for entry in entries:
            caller = callers.get(entry.name) or self._callers.get(entry.name)
            if caller is None or caller.options != entry.options:
                caller = Caller(entry.name, entry.options)
            callers[entry.name] = caller
            digests.append((entry.digest, caller))
        self._callers, self._digests = callers, digests
        self._metrics.declare_keys(callers)
        logger.info("keys", names=len(callers), keys=len(digests))


def describe_security(document: dict[str, Any], keys: Keys, error_shape: Callable[[str], type[BaseModel]]) -> None:
    """Add to an OpenAPI document which operations need a key, and their 401 and 403 with the error body of the path."""
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in document["paths"].items():
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error_shape(path).__name__}"}}}
        for method, operation in operations.items():
            if keys.is_open(method.upper(), path):
                continue
            operation["security"] = [{"bearer": []}, {"header": []}]
            operation["responses"]["401"] = {"description": "No key, or an unknown one.", "content": content}
            if path.startswith(_ADMIN):
                operation["responses"]["403"] = {"description": "Not an admin's key.", "content": content}


def _key_of(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the key in the headers, or nothing."""
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    return credentials.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")


def _signature(path: Path) -> tuple[int | None, ...]:
    """Return what changes when a file does, or the error number if it cannot be read."""
    try:
        status = os.stat(path)
    except OSError as error:
        return (error.errno,)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
