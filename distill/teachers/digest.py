"""The digest of a configured teacher: equal digests mean equal answers, so the labels stage stays up to date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from distill.sections import walk
from distill.stages import file_digest, fingerprint
from distill.students.pretrained import weights_version
from distill.teachers.causal import CausalConfig
from distill.teachers.local import LocalConfig


def teacher_digest(config: BaseModel) -> str:
    """Digest the settings that determine a teacher's answers, and the contents of the files and models they name."""
    paths = [value for key, value in walk(config) if isinstance(value, Path) and key != "key_file"]
    files = [file_digest(path) for path in paths if path.is_file()]
    manifests = [file_digest(path / "manifest.json") for path in paths if (path / "manifest.json").is_file()]
    return fingerprint([_settings(config), files, list(_weights(config)), manifests])


def _settings(value: Any) -> Any:
    """Dump settings without those that change no answer, such as a price.

    A configuration says which these are by `answering`, or names them in `aside`.
    """
    if callable(answering := getattr(value, "answering", None)):
        return answering()
    if isinstance(value, BaseModel):
        aside = getattr(value, "aside", ())  # with their defaults, so that digests of tasks without them stay the same
        return {
            name: field.default if name in aside else _settings(getattr(value, name))
            for name, field in type(value).model_fields.items()
        }
    if isinstance(value, (list, tuple)):
        return [_settings(item) for item in value]
    return value


def _weights(config: BaseModel) -> Iterator[str]:
    """Yield the version of each model on this machine, including those of an ensemble's members."""
    for _, value in walk(config):
        if isinstance(value, LocalConfig):
            yield weights_version(value.model)
        elif isinstance(value, CausalConfig):
            yield value.weights()
