"""What determines a stage beyond its settings: the rows of a source, the files and the models of a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from distill.data.files import refuse_pipe
from distill.data.support_desk import tickets
from distill.errors import DataError
from distill.sections import FileSource, TicketSource
from distill.stages import file_digest, fingerprint
from distill.students.pretrained import weights_version
from distill.teachers.causal import CausalConfig
from distill.teachers.local import LocalConfig


def source_digest(source: FileSource | TicketSource) -> str:
    """What determines a source's rows. Raises DataError for a file that cannot be read."""
    if isinstance(source, TicketSource):
        folder = Path(tickets.__file__).parent
        code = [file_digest(file) for file in sorted(folder.iterdir()) if file.suffix in (".json", ".py")]
        return fingerprint([source.model_dump(), code])
    refuse_pipe(source.path)
    try:
        settings = source.model_dump(mode="json", exclude={"path"})
        return fingerprint([settings, source.path.suffix.lower(), file_digest(source.path)])
    except OSError as error:
        raise DataError(f"{source.path}: cannot be read ({error.strerror or error}); correct the path") from error


def teacher_digest(config: BaseModel) -> str:
    """What determines a configured teacher: the settings that answers depend on, and what the files they name hold."""
    files = [str(path) for path in _paths(config)]
    digests = [file_digest(Path(path)) for path in files if Path(path).is_file()]
    weights = list(_weights(config))
    manifests = [
        file_digest(Path(path) / "manifest.json") for path in files if (Path(path) / "manifest.json").is_file()
    ]
    return fingerprint([_settings(config), digests, weights, manifests])


def _settings(value: Any) -> Any:
    """Settings without those that change no answer, such as a price, where a configuration tells them apart."""
    if callable(answering := getattr(value, "answering", None)):
        return answering()
    if isinstance(value, BaseModel):
        return {name: _settings(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, (list, tuple)):
        return [_settings(item) for item in value]
    return value


def _weights(value: Any) -> Iterator[str]:
    """What determines each model on this machine that a configuration names, those of an ensemble's members too."""
    if isinstance(value, LocalConfig):
        yield weights_version(value.model)
    elif isinstance(value, CausalConfig):
        yield value.weights()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _weights(getattr(value, name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _weights(item)


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, BaseModel):
        for name in sorted(set(type(value).model_fields) - {"key_file"}):
            yield from _paths(getattr(value, name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, Path):
        yield value
