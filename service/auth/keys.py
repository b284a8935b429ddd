"""Who may ask, and how many texts a second: the keys of a file at work. What the file looks like is `keyfile`'s affair.

The file is read again when it has changed, looked at once a second at most. One that was emptied or deleted revokes all
keys; one that does not fit leaves the keys before in force. Both are errors in the log. Not for people: there are no
sessions, no passwords, and no role but `admin`.
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

from service.auth.keyfile import KeysError, Line, NoKeysError, Terms, digest_of, read_keys
from service.errors import ForbiddenError, RateLimitedError, UnauthorisedError
from service.telemetry.metrics import PROBES, Metrics

logger = structlog.get_logger(__name__)

METRICS = "/metrics"
OPEN = (PROBES - {METRICS}) | {"/", "/docs", "/openapi.json"}
"""What machines get to see whether the service is well, and pages without secrets. To be got only: `POST /` asks."""

_READING = ("GET", "HEAD")
_ADMIN = "/admin/"
_DOCS = "/docs/"
_LOOK_SECONDS = 1.0
_HOW = "send `Authorization: Bearer KEY` or `X-API-Key: KEY`"


class Caller:
    """A name of the file, with what is left of its rate: a token bucket that holds one second's worth of texts.

    A request is admitted whole while there is something left, and may take more than that; the next then waits until
    it is made up for. So a request of more texts than the bucket holds is answered too, and the mean is the rate.
    """

    def __init__(self, name: str, terms: Terms) -> None:
        self.name = name
        self.terms = terms
        self._left = terms.rate or 0.0
        self._since = 0.0

    def check(self, path: str) -> None:
        """Raise ForbiddenError where the key is not for a path."""
        if path.startswith(_ADMIN) and not self.terms.admin:
            raise ForbiddenError("this key may not administer; use one with the option `admin`")

    def spend(self, texts: int, now: float) -> None:
        """Take so many texts, at a time of `time.monotonic()`. Raises RateLimitedError while none is left."""
        rate = self.terms.rate
        if rate is None:
            return
        self._left = min(rate, self._left + (now - self._since) * rate)
        self._since = now
        if self._left <= 0:
            again = int(-self._left / rate) + 1
            raise RateLimitedError(f"this key has {rate:g} texts a second; try again in {again} s", retry_after=again)
        self._left -= texts

    def give_back(self, texts: int) -> None:
        """Let texts that were spent be asked after all."""
        self._left += texts


class Keys:
    """The keys in force. All methods belong on the event loop. Raises KeysError when the file does not fit."""

    def __init__(self, path: Path, metrics: Metrics, *, metrics_open: bool = True) -> None:
        self._open = OPEN | {METRICS} if metrics_open else OPEN
        self._path = path
        self._metrics = metrics
        self._callers: dict[str, Caller] = {}
        self._seen = _signature(path)
        self._looked = time.monotonic()
        self._use(read_keys(path))

    def is_open(self, method: str, path: str) -> bool:
        """Whether it needs no key."""
        return method in _READING and (path in self._open or path.startswith(_DOCS))

    def identify(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Return who asks, by the headers of a request. Raises UnauthorisedError."""
        self._look(time.monotonic())
        return self._find(_key_of(headers))

    def refresh(self) -> None:
        """Read the file again if it is another than before.

        Without a key in it, or without the file, all keys are revoked. One that does not fit changes nothing. Each is
        told once.
        """
        signature = _signature(self._path)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._use(read_keys(self._path))
        except NoKeysError as error:
            self._use([])
            logger.error("all keys are revoked, so nobody may ask", error=str(error))
        except KeysError as error:
            logger.error("keys not read again; those before are in force still", error=str(error))

    def _look(self, now: float) -> None:
        # An editor may empty or delete a file for a moment: then nobody waits a second for what it writes.
        if now - self._looked >= _LOOK_SECONDS or not self._digests:
            self._looked = now
            self.refresh()

    def _find(self, key: bytes) -> Caller:
        """Compare with every key, each in constant time, so that the time taken tells nothing of them."""
        given = digest_of(key)
        found: Caller | None = None
        for digest, caller in self._digests:
            if hmac.compare_digest(digest, given):
                found = caller
        if found is None:
            raise UnauthorisedError(f"this key is not known; {_HOW}" if key else f"a key is needed; {_HOW}")
        return found

    def _use(self, lines: Iterable[Line]) -> None:
        """Put lines in force; a name whose terms are as before keeps what it has spent."""
        callers: dict[str, Caller] = {}
        digests: list[tuple[bytes, Caller]] = []
        for line in lines:
            caller = callers.get(line.name) or self._callers.get(line.name)
            if caller is None or caller.terms != line.terms:
                caller = Caller(line.name, line.terms)
            callers[line.name] = caller
            digests.append((line.digest, caller))
        self._callers, self._digests = callers, digests
        self._metrics.declare_keys(callers)
        logger.info("keys", names=len(callers), keys=len(digests))


def describe(document: dict[str, Any], keys: Keys, error_shape: Callable[[str], type[BaseModel]]) -> None:
    """Say in an OpenAPI document which operations need a key, and how they refuse: by the body for their path."""
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
    """The key that a request has, else nothing."""
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    return credentials.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")


def _signature(path: Path) -> tuple[int | None, ...]:
    """What changes when a file does, or why it cannot be seen."""
    try:
        status = os.stat(path)
    except OSError as error:
        return (error.errno,)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
