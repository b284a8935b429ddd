"""What a teacher needs that a pod does not have: libraries of models, and files at paths of this machine.

No cluster is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from distill.errors import DistillError
from distill.sections import walk

BUNDLE = Path("/bundle")
"""Where every pod has the bundle."""

_MOUNT = 'write {"kind": "bundle", "path": "/teacher-bundle"}, say, and mount the bundle there in the overlay'

_TORCH = {
    "local": f"pods can ask what a run exports of one that it fine-tunes (`fit`), RUN/bundles/teacher: {_MOUNT}",
    "causal": 'serve the model with vLLM, say, and write {"kind": "openai", "model": NAME, "base_url": ADDRESS}',
}
"""What to do instead of running a model in a pod, by the kind of teacher."""


def require_reachable(teacher: BaseModel) -> None:
    """Raise DistillError for a teacher that no pod can have.

    Such are a model that torch runs, one that a run fine-tunes, and one at a path relative to this machine's.
    """
    if any(key == "fit" and value is not None for key, value in walk(teacher)):
        raise DistillError(
            "--teacher: it has `fit`, so that a run fine-tunes it; pods ask what the run exported, "
            f"RUN/bundles/teacher: {_MOUNT}"
        )
    for _, value in walk(teacher):
        if isinstance(value, BaseModel) and (kind := getattr(value, "kind", None)) in _TORCH:
            raise DistillError(
                f"--teacher: kind {kind} runs a model with torch, which the image of pods does not have; {_TORCH[kind]}"
            )
    for path in _paths(teacher):
        if not path.is_absolute():
            raise DistillError(
                f"--teacher: no pod has {path}, which is relative to a folder of this machine; give the absolute path "
                f"at which pods have it: {_MOUNT}; {BUNDLE} is the bundle that is served"
            )


def to_mount(teacher: dict[str, Any]) -> list[str]:
    """Return the absolute paths that pods have only if a volume is mounted there, or the image has them."""
    from distill.teachers import parse

    return sorted({str(path) for path in _paths(parse(teacher)) if not path.is_relative_to(BUNDLE)})


def _paths(teacher: BaseModel) -> Iterator[Path]:
    """Yield the files and folders of a teacher and its members, but for those of keys, which are in a Secret."""
    return (value for key, value in walk(teacher) if isinstance(value, Path) and key != "key_file")
