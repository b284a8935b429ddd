"""The bundle: a directory that holds a classifier and everything that serving needs to trust it.

Its files are `model.onnx`, `portable.onnx` (if the served graph needs the inputs of sequence packing),
`tokenizer.json`, `manifest.json`, `reference.npz`, `golden.jsonl`, `anchors.jsonl` (of a student), `decision.npz` (if
the task has a decision) and `CARD.md`. A cascade has no graph and no tokenizer of its own, but in `stages/` a complete
bundle for each stage; its other files are about the answers of the whole. This module writes a bundle atomically and
refuses one that was changed. It does not run the graph; `classifier` and `cascade` do.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from export.bundle.atomic import replaced
from export.bundle.manifest_rules import encodable, is_number, kind_of, read_object, violations
from export.bundle.stages import TEACHER, Stage

SCHEMA = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
PORTABLE = "portable.onnx"
TOKENIZER = "tokenizer.json"
REFERENCE = "reference.npz"
GOLDEN = "golden.jsonl"
CARD = "CARD.md"

PLAIN, FUSED, INT8, FP16 = "plain", "fused", "int8", "fp16"
INT8_QDQ, INT8_DYNAMIC = "int8-qdq", "int8-dynamic"
"""The variants of a graph."""

PRUNED = "-pruned"
"""Follows the variant of a pruned student's graph, as in `int8-pruned-25-12.5`, with the shares that it lacks, in %."""


def split_variant(variant: str) -> tuple[str, str]:
    """Split `int8-pruned-25-12.5` into `int8` and `-pruned-25-12.5`; the latter is empty for a whole student."""
    kind = variant.partition(PRUNED)[0]
    return kind, variant.removeprefix(kind)


class BundleError(Exception):
    """A directory is not a bundle that can be served; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a bundle. `version` is a hash of everything that determines its answers.

    `teacher` holds the `name` and `version` of the student's teacher, the same of its `origin` if it is the bundle that
    was exported from another teacher, the acknowledged `terms` if it has any, and the `calibration` of its answers if
    they were calibrated; shadowing applies that to the teacher. In a `multi_label` bundle each label's probability is
    independent, and a text has every label of at least `threshold`. `truncation_side`, `left` or `right`, is the end at
    which a text of more than `max_tokens` is cut; the tokenizer holds it too. `portable` names the graph that takes
    `input_ids` and `attention_mask` only, so that it runs without Reflux; it may be `model.onnx` itself, and is None in
    bundles older than this key. `stages` are those of a cascade, none in other bundles.
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
    portable: str | None = None
    stages: tuple[Stage, ...] = ()
    schema: int = SCHEMA

    @property
    def kind(self) -> str:
        """How the graph computes: its variant, whether the student was pruned or not."""
        return split_variant(self.variant)[0]

    @property
    def deferred_below(self) -> float | None:
        """The score below which the last stage of a cascade leaves a text to the teacher; None where it leaves none."""
        return self.stages[-1].cut_off if self.stages else None

    @property
    def answering(self) -> tuple[str, ...]:
        """The names of what answers in a cascade, by place: its stages, and the teacher if texts are deferred to it."""
        names = tuple(stage.name for stage in self.stages)
        return names if self.deferred_below is None else (*names, TEACHER)

    def content_version(self) -> str:
        """Hash the files and the settings that change an answer: twelve hexadecimal digits.

        Of the stages of a cascade it hashes versions and cut-offs, not the files.
        """
        own = {name: digest for name, digest in sorted(self.files.items()) if name != CARD and "/" not in name}
        content: dict[str, Any] = {
            "files": own,
            "labels": list(self.labels),
            "max_tokens": self.max_tokens,
        }
        if self.multi_label:
            content |= {"multi_label": True, "threshold": self.threshold}
        if self.stages:
            content["stages"] = [[stage.version, stage.cut_off] for stage in self.stages]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """Return the text of `manifest.json`. Without stages it has no such key, so that earlier versions read it."""
        content = asdict(self)
        if not self.stages:
            del content["stages"]
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: Path) -> Self:
        """Read a manifest. Raises BundleError that names each wrong key and what it must hold."""
        try:
            data = read_object(text)
        except ValueError as error:
            raise BundleError(f"{where}: not JSON ({error}); export the bundle again") from error
        schema = data.get("schema")
        if type(schema) is not int or schema != SCHEMA:
            raise BundleError(
                f"{where}: schema {kind_of(schema)}, this version reads {SCHEMA}; export the bundle again"
            )
        if wrong := violations(data):
            raise BundleError(f"{where}: {'; '.join(wrong)}; export the bundle again")
        stages = tuple(Stage(**stage) for stage in data.get("stages", ()))
        return cls(**{**data, "labels": tuple(data["labels"]), "stages": stages})


@dataclass(frozen=True, slots=True)
class Golden:
    """A text with the answer that the graph gave when exported: the most probable label, and K `probabilities`."""

    text: str
    label: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle, whose hashes were checked: its path and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a bundle and check every file against its hash.

        Raises BundleError when the directory is not a bundle, a file is missing, changed or unreadable, or the version
        is not that of the content.
        """
        root = Path(path)
        try:
            return cls(root, _checked_manifest(root))
        except (OSError, ValueError) as error:  # ValueError: a path that no file can have
            raise _unreadable(root, error) from error

    def stage(self, stage: Stage) -> Bundle:
        """Return the bundle of a stage, which was checked when this one was opened."""
        folder = self.path / stage.folder
        return Bundle(folder, Manifest.from_json((folder / MANIFEST).read_bytes(), folder / MANIFEST))

    def golden(self) -> list[Golden]:
        """Read the golden texts. Raises BundleError for a line that is not one, or has other labels."""
        rows = []
        try:
            content = (self.path / GOLDEN).read_bytes()
        except OSError as error:
            raise _unreadable(self.path / GOLDEN, error) from error
        # Lines of bytes: str.splitlines would also split at characters such as U+2028, which a text may hold.
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                rows.append(_golden(line, self.manifest.labels))
            except ValueError as error:
                raise BundleError(
                    f"{self.path / GOLDEN}:{number}: not a golden row ({error}); export the bundle again"
                ) from error
        return rows


def _golden(line: bytes, labels: tuple[str, ...]) -> Golden:
    """Parse a golden row from a line of JSON. Raises ValueError that names the key that is wrong."""
    row = read_object(line)
    text, label, probabilities = row.get("text"), row.get("label"), row.get("probabilities")
    if not isinstance(text, str) or not encodable(text):
        raise ValueError("'text' must be text in UTF-8")
    if not isinstance(label, str) or label not in labels:
        raise ValueError(f"'label' must be one of the {len(labels)} labels of the manifest")
    if (
        not isinstance(probabilities, list)
        or len(probabilities) != len(labels)
        or not all(map(is_number, probabilities))
    ):
        raise ValueError(f"'probabilities' must be {len(labels)} numbers, one for each label")
    return Golden(text, label, tuple(map(float, probabilities)))


def _checked_manifest(root: Path) -> Manifest:
    if not (root / MANIFEST).is_file():
        raise BundleError(f"{root}: no {MANIFEST}; a bundle is a directory that `reflux export` wrote")
    manifest = Manifest.from_json((root / MANIFEST).read_bytes(), root / MANIFEST)
    for name in (REFERENCE, GOLDEN) if manifest.stages else (MODEL, TOKENIZER, REFERENCE, GOLDEN):
        if name not in manifest.files:
            raise BundleError(f"{root / MANIFEST}: 'files' lists no {name}; export the bundle again")
    inside = root.resolve()
    for name, expected in manifest.files.items():
        if not (root / name).is_file():
            raise BundleError(f"{root / name}: missing; copy the bundle whole or export it again")
        if not (root / name).resolve().is_relative_to(inside):
            raise BundleError(f"{root / name}: a link to a file outside the bundle; copy the file itself into it")
        if file_sha256(root / name) != expected:
            raise BundleError(f"{root / name}: does not match its hash; copy the bundle again or export it again")
    if manifest.version != manifest.content_version():
        raise BundleError(f"{root / MANIFEST}: version {manifest.version} is not that of its content; export again")
    for stage in manifest.stages:
        _check_stage(root, manifest, stage)
    return manifest


def _check_stage(root: Path, manifest: Manifest, stage: Stage) -> None:
    """Check the bundle of a stage, whose files the cascade's manifest lists too and whose hashes were checked.

    Raises BundleError when it is not a whole bundle, is another version, is a cascade, or answers otherwise than with
    one of the cascade's labels.
    """
    where, inside = root / stage.folder / MANIFEST, f"{stage.folder}/"
    listed = {name.removeprefix(inside): digest for name, digest in manifest.files.items() if name.startswith(inside)}
    if listed.pop(MANIFEST, None) is None:
        raise BundleError(f"{root / MANIFEST}: 'files' lists no {inside}{MANIFEST}; build the cascade again")
    own = Manifest.from_json(where.read_bytes(), where)
    if own.files != listed or not {MODEL, TOKENIZER} <= set(listed) or own.stages:
        raise BundleError(f"{where}: is not that of a student whose files the cascade has; build the cascade again")
    if not own.version == own.content_version() == stage.version:
        raise BundleError(f"{where}: version {own.version} is not the {stage.version} of the cascade; build it again")
    if own.labels != manifest.labels or own.multi_label or manifest.multi_label:
        raise BundleError(
            f"{where}: has not the labels of the cascade, in their order, one for each text; build it again"
        )


def _unreadable(path: Path, error: Exception) -> BundleError:
    return BundleError(f"{path}: cannot be read ({error}); correct the path or its permissions")


def write_bundle(path: str | Path, contents: Mapping[str, bytes | Path], manifest: Manifest) -> Bundle:
    """Write a bundle at `path`, whole or not at all, in place of any bundle that is there.

    `contents` maps a file's name to its bytes or to a file to copy. The manifest's hashes and version are computed
    here. Raises OSError when it cannot be written, and BundleError when the manifest would be refused; `path` is then
    unchanged.
    """
    target = Path(path)
    with replaced(target) as staging:
        for name, content in contents.items():
            _write(staging / name, content)
        files = {name: file_sha256(staging / name) for name in sorted(contents)}
        sealed = replace(manifest, files=files)
        sealed = replace(sealed, version=sealed.content_version())
        Manifest.from_json(sealed.to_json(), target / MANIFEST)  # so that nothing is written which `open` would refuse
        _write(staging / MANIFEST, sealed.to_json().encode())
    return Bundle(target, sealed)


def golden_jsonl(rows: list[Golden]) -> bytes:
    """Return the bytes of `golden.jsonl`."""
    return "".join(
        json.dumps({"text": row.text, "label": row.label, "probabilities": row.probabilities}, ensure_ascii=False)
        + "\n"
        for row in rows
    ).encode()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cpu_features() -> dict[str, Any]:
    """Return the architecture of this machine and the vector extensions that decide how int8 kernels compute."""
    try:
        line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
        flags = set(line.split(":", 1)[1].split())
    except (OSError, StopIteration):
        flags = set()
    watched = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    return {"machine": platform.machine(), "features": [name for name in watched if name in flags]}


def _write(path: Path, content: bytes | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_bytes(content)
    with path.open("rb") as file:
        os.fsync(file.fileno())
