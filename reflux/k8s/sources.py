"""What an overlay is told on the command line, checked: where the bundle is, the teacher, the database, names.

Nothing is looked up: neither a registry nor a cluster is asked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from distill.errors import DistillError
from export.delivery.address import require_place
from export.delivery.errors import DeliveryError
from reflux.k8s.teacher_files import require_reachable
from reflux.k8s.teacher_keys import with_key_files

Delivery = Literal["image-volume", "init-container"]

_WORK = "/distil"
"""Where the Job of the component redistill has its claim."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9.-]+(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?:(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})(?:@sha256:[0-9a-f]{64})?|@sha256:[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class BundleSource:
    """Where pods get the bundle: an image, an address to pull from with its digest, or a PersistentVolumeClaim."""

    delivery: Literal["image-volume", "init-container", "claim"]
    reference: str
    digest: str = ""

    @classmethod
    def parse(cls, text: str, digest: str | None = None, delivery: Delivery | None = None) -> Self:
        """Parse `claim:NAME`, or what `reflux push` was given, with the digest that it printed.

        The digest is `digest` or the end of `text`, `@sha256:…`. A registry's bundles are mounted as images unless
        `delivery` says otherwise, an object store's are pulled. Raises DistillError.
        """
        if text.startswith("claim:"):
            if digest or delivery:
                raise DistillError(f"--bundle {text}: a claim has neither --digest nor --delivery")
            return cls("claim", require_name(text.removeprefix("claim:"), "--bundle claim:"))
        reference, _, named = text.partition("@")
        if not reference.startswith(("oci://", "s3://", "gs://")):
            raise DistillError(f"--bundle {text}: give oci://…, s3://…, gs://… or claim:NAME")
        if digest and named and digest != named:
            raise DistillError(f"--bundle {text}: --digest is another one, {digest}; leave one of the two out")
        try:
            require_place(reference)
        except DeliveryError as error:
            raise DistillError(f"--bundle {error}") from error
        digest = digest or named
        if not _DIGEST.fullmatch(digest):
            raise DistillError(
                f"--bundle {text}: name the bundle by its digest, so that no other can take its place; "
                "`reflux push` printed it: add --digest sha256:…"
            )
        if not reference.startswith("oci://"):
            if delivery == "image-volume":
                raise DistillError(f"--bundle {text}: only a registry has images; leave --delivery out")
            return cls("init-container", reference, digest)
        if delivery == "init-container":
            return cls("init-container", reference, digest)
        return cls("image-volume", f"{reference.removeprefix('oci://')}@{digest}")


def require_image(text: str, option: str = "--image") -> str:
    """Return the name of an image with a tag, a digest or both. Raises DistillError."""
    if not _IMAGE.fullmatch(text):
        raise DistillError(f"{option} {text!r}: give REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:…, in lower case")
    return text


def require_page(url: str) -> str:
    """Return the address of a page, without a fragment: each alert adds its own. Raises DistillError."""
    example = "give an address such as https://wiki.example/reflux"
    _split(url, ("http", "https"), "--runbook-url", example)
    if re.search(r"[\s\x00-\x1f]", url):
        raise DistillError(f"--runbook-url: it has a space or a control character; {example}")
    if "#" in url:
        raise DistillError(f"--runbook-url {url}: leave out `#` and what follows; each alert adds its own section")
    return url


def read_teacher(text: str) -> dict[str, Any]:
    """Return a teacher's configuration, for a pod: `text` is JSON, or a task file whose teacher is meant.

    Keys are read from the teacher's Secret. Raises DistillError, also for a teacher that no pod can have.
    """
    import yaml
    from pydantic import ValidationError

    from distill.teachers import parse
    from distill.teachers.errors import TeacherError

    try:
        found = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(Path(text).read_text("utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise DistillError(f"--teacher: neither JSON nor YAML ({error})") from error
    if isinstance(found, dict) and isinstance(found.get("teacher"), dict):
        found = found["teacher"]
    if not isinstance(found, dict):
        raise DistillError('--teacher: give a task file, or JSON such as {"kind": "openai", "model": "gpt-4.1"}')
    try:
        typed = parse(found)
    except ValidationError as error:  # its own message would repeat the input
        wrong = error.errors(include_input=False, include_context=False, include_url=False)
        lines = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in wrong)
        raise DistillError(f"--teacher: {'; '.join(lines)}") from None
    except TeacherError as error:
        raise DistillError(f"--teacher: {error}") from error
    require_reachable(typed)
    return with_key_files(found)


def require_candidates(target: str) -> str:
    """Return where a Job pushes candidates: in a registry, an object store, or a folder of its claim.

    Raises DistillError.
    """
    try:
        require_place(target)
    except DeliveryError as error:
        raise DistillError(f"--candidates {error}") from error
    if target.startswith(("oci://", "oci+http://", "s3://", "gs://")) or PurePosixPath(target).is_relative_to(_WORK):
        return target
    raise DistillError(
        f"--candidates {target}: give oci://…, s3://… or gs://…, or a folder in the Job's claim, {_WORK}/candidates"
    )


def require_name(text: str, option: str) -> str:
    """Return a name that Kubernetes takes for a namespace, a Secret or a claim. Raises DistillError."""
    if not _NAME.fullmatch(text):
        raise DistillError(f"{option} {text!r}: give at most 63 lower-case letters, digits and `-`")
    return text


def require_database(url: str) -> str:
    """Return the address of a PostgreSQL database. Raises DistillError, also where a password is in it."""
    example = "give an address such as postgresql://reflux@db.example:5432/reflux"
    parts = _split(url, ("postgresql", "postgres"), "--database", example)
    if parts.password is not None:
        raise DistillError("--database: leave the password out, and put it into the file `password` of a Secret")
    if not (parts.username and parts.path[1:]):
        raise DistillError(f"--database: no user or no name of a database is in it; {example}")
    return url


def _split(url: str, schemes: tuple[str, ...], option: str, example: str) -> SplitResult:
    """Return the parts of the address of a server. Raises DistillError without the address, which may hold a password.

    The error names the `option`, and the `example` is its remedy.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no number
    except ValueError as error:
        raise DistillError(f"{option}: {error}; {example}") from None
    if parts.scheme not in schemes or not parts.hostname:
        raise DistillError(f"{option}: no address of a server; {example}")
    return parts
