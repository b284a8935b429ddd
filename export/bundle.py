"""A bundle: the directory that holds a classifier and everything that serving needs to trust it.

`model.onnx`, `tokenizer.json`, `manifest.json`, `reference.npz`, `golden.jsonl`, `CARD.md`. This file knows what is in
it, writes it atomically and refuses one that was changed. It does not run the graph; `runtime` does.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

SCHEMA = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
REFERENCE = "reference.npz"
GOLDEN = "golden.jsonl"
CARD = "CARD.md"

PLAIN, FUSED, INT8, FP16 = "plain", "fused", "int8", "fp16"
"""The variants of a graph."""

_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "family": str,
    "labels": list,
    "max_tokens": int,
    "variant": str,
    "temperature": (int, float),
    "files": dict,
    "version": str,
}
_OPTIONAL: dict[str, type | tuple[type, ...]] = {
    "multi_label": bool,
    "threshold": (int, float),
    "truncation_side": str,
}
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # linux/fcntl.h


class BundleError(Exception):
    """A directory is not a bundle that can be served; the message says which file and what to do."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself. `version` is a hash of all that determines its answers.

    `teacher` has the `name` and `version` of whom the student learned from, the `terms` that were acknowledged, where
    there are any, and the `calibration` of its answers, where it was calibrated: shadowing applies that to the teacher.
    The probabilities of a `multi_label` bundle are each on its own, and a text has every label from `threshold`.
    `truncation_side`, `left` or `right`, is the end of a text of more than `max_tokens` that is left out; the tokenizer
    has it too.
    """

    name: str
    family: str
    labels: tuple[str, ...]
    max_tokens: int
    variant: str
    temperature: float
    files: dict[str, str]
    version: str = ""
    role: str = "student"
    teacher: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    cpu: dict[str, Any] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    created: str = ""
    multi_label: bool = False
    threshold: float = 0.5
    truncation_side: str = "right"
    schema: int = SCHEMA

    def content_version(self) -> str:
        """Twelve hexadecimal digits over the files and the settings that change an answer."""
        content = {
            "files": {name: digest for name, digest in sorted(self.files.items()) if name != CARD},
            "labels": list(self.labels),
            "max_tokens": self.max_tokens,
        }
        if self.multi_label:
            content |= {"multi_label": True, "threshold": self.threshold}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """The manifest as the text of `manifest.json`."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: Path) -> Self:
        """Read a manifest. Raises BundleError naming the key that does not fit."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise BundleError(f"{where}: not JSON ({error}); export the bundle again") from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise BundleError(f"{where}: schema {found!r}, this version reads {SCHEMA}; export the bundle again")
        known = {item.name for item in fields(cls)}
        if wrong := sorted((set(data) - known) | (set(_REQUIRED) - set(data))):
            raise BundleError(f"{where}: unknown or missing keys {wrong}; export the bundle again")
        kinds = {**_REQUIRED, **{key: kind for key, kind in _OPTIONAL.items() if key in data}}
        if wrong := [key for key, kind in kinds.items() if not isinstance(data[key], kind)]:
            raise BundleError(f"{where}: {wrong} hold something else than expected; export the bundle again")
        return cls(**{**data, "labels": tuple(data["labels"])})


@dataclass(frozen=True, slots=True)
class Golden:
    """A text with the answer the graph gave when it was exported: its most probable label, and K `probabilities`."""

    text: str
    label: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its path and its manifest, the hashes already checked."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a bundle and check every file against its hash.

        Raises BundleError when the directory is not a bundle, a file is missing, changed or not ours to read, or the
        version is not that of the content.
        """
        root = Path(path)
        try:
            return cls(root, _checked_manifest(root))
        except OSError as error:
            raise BundleError(f"{root}: cannot be read ({error}); correct the path or its permissions") from error

    def golden(self) -> list[Golden]:
        """The texts with known answers. Raises BundleError on a line that is not one."""
        rows = []
        # Lines of bytes: those of str would also end at characters such as U+2028, which a text may hold.
        for number, line in enumerate((self.path / GOLDEN).read_bytes().splitlines(), start=1):
            try:
                row = json.loads(line)
                rows.append(Golden(row["text"], row["label"], tuple(map(float, row["probabilities"]))))
            except (ValueError, KeyError, TypeError) as error:
                raise BundleError(f"{self.path / GOLDEN}:{number}: not a golden row ({error})") from error
        return rows


def _checked_manifest(root: Path) -> Manifest:
    if not (root / MANIFEST).is_file():
        raise BundleError(f"{root}: no {MANIFEST}; a bundle is a directory that `reflux export` wrote")
    manifest = Manifest.from_json((root / MANIFEST).read_bytes(), root / MANIFEST)
    for name in (MODEL, TOKENIZER, REFERENCE, GOLDEN):
        if name not in manifest.files:
            raise BundleError(f"{root}: the manifest lists no {name}; export the bundle again")
    for name, expected in manifest.files.items():
        if not (root / name).is_file():
            raise BundleError(f"{root / name}: missing; copy the bundle whole or export it again")
        if file_sha256(root / name) != expected:
            raise BundleError(f"{root / name}: does not match its hash; copy the bundle again or export it again")
    if manifest.version != manifest.content_version():
        raise BundleError(f"{root / MANIFEST}: version {manifest.version} is not that of its content; export again")
    return manifest


def write_bundle(path: str | Path, contents: Mapping[str, bytes | Path], manifest: Manifest) -> Bundle:
    """Write a bundle at `path`, whole or not at all; one that stands there is replaced.

    `contents` maps a file's name to its bytes or to a file to copy. The manifest's hashes and version are computed
    here. Raises OSError when the disk does not take it; what stood at `path` is then still there.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # One dot, so that what a killed process leaves is known as a leftover of its stage where `target` is hidden itself.
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name.lstrip('.')}-", dir=target.parent))
    try:
        for name, content in contents.items():
            _write(staging / name, content)
        files = {name: file_sha256(staging / name) for name in sorted(contents)}
        values = {item.name: getattr(manifest, item.name) for item in fields(manifest)}
        sealed = Manifest(**{**values, "files": files})
        sealed = Manifest(**{**values, "files": files, "version": sealed.content_version()})
        _write(staging / MANIFEST, sealed.to_json().encode())
        staging.chmod(0o755)
        _replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Bundle(target, sealed)


def golden_jsonl(rows: list[Golden]) -> bytes:
    """Golden rows as the bytes of `golden.jsonl`."""
    return "".join(
        json.dumps({"text": row.text, "label": row.label, "probabilities": row.probabilities}, ensure_ascii=False)
        + "\n"
        for row in rows
    ).encode()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cpu_features() -> dict[str, Any]:
    """The architecture of this machine and the vector extensions that decide how int8 kernels compute."""
    try:
        line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
        flags = set(line.split(":", 1)[1].split())
    except (OSError, StopIteration):
        flags = set()
    watched = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    return {"machine": platform.machine(), "features": [name for name in watched if name in flags]}


def _replace(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    aside = staging
    if not _exchange(staging, target):
        aside = staging.with_name(f"{staging.name}-old")
        target.rename(aside)
        try:
            staging.rename(target)
        except BaseException:
            aside.rename(target)
            raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories in one step, so that neither name is ever free. False where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    paths = (os.fsencode(first), os.fsencode(second))
    return rename is not None and rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0


def _write(path: Path, content: bytes | Path) -> None:
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_bytes(content)
    with path.open("rb") as file:
        os.fsync(file.fileno())
