"""Stages: directories that are written whole or not at all, and identified by the fingerprint of their inputs.

A stage that was killed leaves a staging directory behind, never a half-written result. A stage whose inputs did not
change is up to date and is not run again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import DistillError

RECORD = "stage.json"


def fingerprint(value: Any) -> str:
    """Hash a JSON value to 16 hexadecimal digits; the order of a mapping's keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all (temporary file, fsync, rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run: the `path` of its result, and the `inputs` that determine it.

    `inputs` holds the configuration and the fingerprints of earlier stages; equal inputs mean an equal result.
    """

    path: Path
    inputs: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the inputs."""
        return fingerprint(self.inputs)

    @property
    def done(self) -> bool:
        """Whether the result exists, was made from these inputs, and has all its files at their sizes."""
        try:
            record = json.loads((self.path / RECORD).read_text(encoding="utf-8"))
            return bool(record["fingerprint"] == self.fingerprint) and all(
                (self.path / name).stat().st_size == size for name, size in record["files"].items()
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def build(self, work: Callable[[Path], None]) -> Path:
        """Run `work` on an empty directory, move it into place when it returns, and return the stage's path."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.parent.glob(f".{self.path.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent))
        try:
            work(staging)
            files = {
                str(file.relative_to(staging)): file.stat().st_size
                for file in sorted(staging.rglob("*"))
                if file.is_file()
            }
            record = {"fingerprint": self.fingerprint, "inputs": self.inputs, "files": files}
            write_atomic(staging / RECORD, json.dumps(record, indent=2, default=str, ensure_ascii=False) + "\n")
            staging.chmod(0o755)
            if self.path.exists():
                shutil.rmtree(self.path)
            staging.rename(self.path)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        return self.path

    def ensure(self, work: Callable[[Path], None]) -> Path:
        """Build the stage unless it is up to date, and return its path."""
        return self.path if self.done else self.build(work)

    def require(self, verb: str) -> Path:
        """Return the stage's path. Raises DistillError, naming the verb to run, unless it is up to date."""
        if not self.done:
            state = "is out of date" if (self.path / RECORD).exists() else "has not been made"
            raise DistillError(f"{self.path} {state}: run `reflux {verb}` with this task first, or `reflux run`")
        return self.path
