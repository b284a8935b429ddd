"""Files and folders that a teacher's configuration names, which a pod has to have. No cluster is asked."""

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


def require_reachable(teacher: BaseModel) -> None:
    """Raise DistillError for a teacher that no pod can have: made by a run, or at a path relative to this machine's."""
    if any(key == "fit" and value is not None for key, value in walk(teacher)):
        raise DistillError(
            "--teacher: it has `fit`, so that a run fine-tunes it; pods ask what the run exported, "
            f"RUN/bundles/teacher: {_MOUNT}"
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
    """Yield the files and folders of a teacher and its members, but for that of the key, which is a Secret.

    A model is a hub's name or a folder; it is a folder if it is written as one or is there.
    """
    from distill.teachers.causal import CausalConfig
    from distill.teachers.local import LocalConfig

    for key, value in walk(teacher):
        if isinstance(value, Path) and key != "key_file":
            yield value
        if isinstance(value, LocalConfig | CausalConfig) and (
            value.model.startswith(("/", ".", "~")) or Path(value.model).exists()
        ):
            yield Path(value.model)
