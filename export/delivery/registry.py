"""A client of an OCI registry for one repository: blobs and manifests, with retries, within limits of size.

It knows the protocol (OCI distribution 1.1) and nothing of bundles; `registry_place` does.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from distill.errors import one_line
from distill.teachers.api.limit_headers import retry_after
from export.delivery.address import Address
from export.delivery.credentials import Login
from export.delivery.errors import DeliveryError, TransientError
from export.delivery.image import MANIFEST_TYPE, Blob
from export.delivery.tokens import authorization, needs_login

T = TypeVar("T")

ATTEMPTS = 5
LONGEST_WAIT = 60.0  # seconds, also where the registry asks for more
MAX_BYTES = 4 * 2**20
"""The largest manifest, which is also what registries accept."""

_TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # seconds without a byte
_RETRIED = {408, 425, 429, 500, 502, 503, 504}
_ACCEPTED = (MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json")
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")


class Registry:
    """Calls about the repository of an address. Every method raises DeliveryError."""

    def __init__(self, address: Address, login: Login | None) -> None:
        self.address = address
        self._login = login
        self._authorization: dict[bool, str] = {}  # by whether it allows to write
        self._client = httpx.Client(timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def manifest(self, reference: str) -> bytes | None:
        """Return the manifest with a tag or a digest, or None where there is none."""

        def ask() -> bytes | None:
            headers = {"accept": ", ".join((*_ACCEPTED, *_INDEXES))}
            with self._response("GET", f"/manifests/{reference}", headers=headers, missing=True) as response:
                if response.status_code == httpx.codes.NOT_FOUND:
                    return None
                return _read(response, MAX_BYTES, self.address.name)

        return self._retried(ask)

    def put_manifest(self, reference: str, manifest: Blob) -> None:
        """Store a manifest under a tag or its digest. All blobs that it names must be stored."""
        headers = {"content-type": manifest.media_type, "content-length": str(manifest.size)}

        def put() -> None:
            with self._response("PUT", f"/manifests/{reference}", headers=headers, content=manifest, write=True):
                pass

        self._retried(put)

    def put_blob(self, blob: Blob) -> None:
        """Store a blob unless the repository has it."""

        def put() -> None:
            with self._response("HEAD", f"/blobs/{blob.digest}", missing=True, write=True) as found:
                if found.status_code == httpx.codes.OK:
                    return
            with self._response("POST", "/blobs/uploads/", write=True) as begun:
                place = begun.request.url.join(begun.headers.get("location", ""))
            place = place.copy_add_param("digest", blob.digest)
            headers = {"content-type": "application/octet-stream", "content-length": str(blob.size)}
            with self._response("PUT", place, headers=headers, content=blob, write=True):
                pass

        self._retried(put)

    def small_blob(self, digest: str) -> bytes:
        """Return the content of a blob of MAX_BYTES at most, whose digest is checked."""

        def ask() -> bytes:
            with self._response("GET", f"/blobs/{digest}") as response:
                return _read(response, MAX_BYTES, self.address.name)

        content = self._retried(ask)
        self._require_digest(hashlib.sha256(content), digest)
        return content

    def blob_to(self, path: Path, digest: str, size: int) -> None:
        """Download a blob into a file. After a break, the next attempt goes on where the last one ended.

        Raises OSError when the file cannot be written.
        """
        path.write_bytes(b"")
        self._retried(lambda: self._continue(path, digest, size))
        with path.open("rb") as file:
            self._require_digest(hashlib.file_digest(file, "sha256"), digest)

    def _continue(self, path: Path, digest: str, size: int) -> None:
        have = path.stat().st_size
        headers = {"accept-encoding": "identity"} | ({"range": f"bytes={have}-"} if have else {})
        with path.open("r+b") as file:
            file.seek(have)
            if have < size:
                with self._response("GET", f"/blobs/{digest}", headers=headers) as response:
                    if response.status_code != httpx.codes.PARTIAL_CONTENT:  # all of it, from the start
                        file.seek(0)
                        file.truncate()
                    for chunk in response.iter_raw():  # as it comes: a break loses nothing
                        file.write(chunk)
                        if file.tell() > size:
                            break
            received = file.tell()
        if received < size:
            raise TransientError(f"{self.address.name}: {digest} ended after {received} of {size} bytes; pull again")
        if received > size:
            raise DeliveryError(f"{self.address.name}: {digest} has more than its {size} bytes; push the bundle again")

    def _require_digest(self, found: Any, digest: str) -> None:
        if f"sha256:{found.hexdigest()}" != digest:
            raise DeliveryError(
                f"{self.address.name}: what arrived as {digest} has another hash; a proxy or the registry damages "
                "it: push the bundle again, or pull it elsewhere"
            )

    def _retried(self, call: Callable[[], T]) -> T:
        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            retry=retry_if_exception_type(TransientError),
            wait=_pause,
            reraise=True,
        )
        return retrying(call)

    @contextmanager
    def _response(
        self,
        method: str,
        place: str | httpx.URL,
        *,
        headers: Mapping[str, str] | None = None,
        content: Blob | None = None,
        write: bool = False,
        missing: bool = False,
    ) -> Iterator[httpx.Response]:
        """Yield the response to a request, signed in if the registry asks for it, before its body is read.

        Raises DeliveryError for an error, but not for 404 if what is asked for may be `missing`.
        """
        url = self.address.url + place if isinstance(place, str) else place
        try:
            response = self._sent(method, url, headers, content, write=write)
            if response.status_code == httpx.codes.UNAUTHORIZED:
                response.close()
                challenges = response.headers.get_list("www-authenticate")
                self._authorization[write] = authorization(
                    self._client, challenges, self._login, self.address, write=write
                )
                response = self._sent(method, url, headers, content, write=write)
            try:
                if not response.is_success and not (missing and response.status_code == httpx.codes.NOT_FOUND):
                    raise self._error_of(response)
                yield response
            finally:
                response.close()
        except httpx.TransportError as error:
            raise TransientError(
                f"{self.address.name}: the registry does not answer: {one_line(error)}; "
                f"is {self.address.host} right, and up?"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DeliveryError(f"{self.address.name}: {one_line(error)}; is this a registry?") from error

    def _sent(
        self, method: str, url: str | httpx.URL, headers: Mapping[str, str] | None, content: Blob | None, *, write: bool
    ) -> httpx.Response:
        sent = dict(headers or {})
        here = httpx.URL(url).netloc == httpx.URL(self.address.url).netloc  # an upload may go to another host
        if here and write in self._authorization:
            sent["authorization"] = self._authorization[write]
        request = self._client.build_request(method, url, headers=sent, content=content.chunks() if content else None)
        # httpx sends no login on to another host: registries redirect downloads to an object store.
        return self._client.send(request, stream=True, follow_redirects=method in ("GET", "HEAD"))

    def _error_of(self, response: httpx.Response) -> DeliveryError:
        status, name = response.status_code, self.address.name
        said = _message(response)
        if status in _RETRIED:
            return TransientError(
                f"{name}: the registry answered {status}{said}; try again later", retry_after(response.headers)
            )
        if status == httpx.codes.UNAUTHORIZED:
            return needs_login(self.address, self._login)
        remedy = {
            403: "use a login that may " + ("read it" if response.request.method in ("GET", "HEAD") else "write to it"),
            404: "is this the address of a registry, and is the repository there?",
            413: "its limit on the size of a blob must be raised",
        }.get(status, "is this a registry?")
        return DeliveryError(f"{name}: the registry answered {status}{said}; {remedy}")


def _pause(state: RetryCallState) -> float:
    """Seconds until the next attempt: as the registry asked, else exponential, with jitter to spread clients out."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait if isinstance(error, TransientError) else None
    return min(LONGEST_WAIT, 0.5 * 2.0**state.attempt_number if asked is None else asked) * random.uniform(1.0, 1.1)


def _read(response: httpx.Response, most: int, where: str) -> bytes:
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > most:
            raise DeliveryError(f"{where}: {response.url} has more than {most} bytes; is this the address of a bundle?")
    return bytes(content)


def _message(response: httpx.Response) -> str:
    """Return what a registry says of its error: `errors[0]`, with a code and a message."""
    try:
        first = json.loads(_read(response, MAX_BYTES, ""))["errors"][0]
        return f" ({first['code']}: {' '.join(str(first.get('message', '')).split())[:200]})"
    except (DeliveryError, httpx.HTTPError, ValueError, LookupError, TypeError):
        return ""
