"""The teacher kind `recorded`: looks up recorded answers by text.

For logits computed elsewhere, in the row order of a data file, and for repeating an experiment without paying again.
It can only answer the recorded texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from distill.errors import DataError
from distill.sections import FileSource
from distill.stages import file_digest, fingerprint
from distill.teachers.account import Account
from distill.teachers.base import Answer, label_order
from distill.teachers.errors import TeacherError


class Recording(BaseModel):
    """An array of logits: its name in the file, and the data file with the texts of its rows."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    array: str
    rows: FileSource


class RecordedConfig(BaseModel):
    """`logits` is an `.npz` file with an array `labels` [K] and arrays of logits [N, K], divided by `temperature`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    aside: ClassVar[tuple[str, ...]] = ("usd_per_1000",)
    """Keys that change no answer."""

    kind: Literal["recorded"] = "recorded"
    name: str = "recorded"
    logits: Path
    recordings: Annotated[tuple[Recording, ...], Field(min_length=1)]
    temperature: float = Field(default=1.0, gt=0)
    usd_per_1000: float = Field(default=0.0, ge=0)


class RecordedTeacher:
    """Looks up answers by text. A text with several recorded answers gets their mean."""

    config_type: ClassVar[type[BaseModel]] = RecordedConfig
    batch_size = 1024
    concurrency = 1

    def __init__(
        self,
        name: str,
        version: str,
        labels: Sequence[str],
        answers: dict[str, npt.NDArray[np.float32]],
        usd_per_1000: float = 0.0,
    ) -> None:
        self.name = f"recorded:{name}"
        self.version = version
        self.labels = tuple(labels)
        self._answers = answers
        self._usd = usd_per_1000 / 1000

    @classmethod
    def from_config(cls, config: RecordedConfig, labels: Sequence[str], account: Account | None = None) -> Self:
        """Read the recording. Raises TeacherError if its arrays do not fit the data files."""
        try:
            with np.load(config.logits, allow_pickle=False) as arrays:
                recorded = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, TypeError, EOFError, BadZipFile) as error:
            raise TeacherError(f"{config.logits}: not a recording ({error}); expected an .npz of arrays") from error
        order = label_order(_labels(config, recorded), labels, str(config.logits))
        answers: dict[str, list[npt.NDArray[np.float32]]] = {}
        for recording in config.recordings:
            for text, row in zip(*_rows(config, recording, recorded), strict=True):
                answers.setdefault(text, []).append(row[order])
        followed = [
            [
                one.array,
                one.rows.text,
                *([one.rows.delimiter] if one.rows.delimiter else []),
                file_digest(one.rows.path),
            ]
            for one in config.recordings
        ]
        version = fingerprint([file_digest(config.logits), config.temperature, followed])
        means = {text: np.stack(rows).mean(axis=0) for text, rows in answers.items()}
        return cls(config.name, version, labels, means, config.usd_per_1000)

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        """Look each text up. Raises TeacherError for a text that was not recorded."""
        missing = [text for text in texts if text not in self._answers]
        if missing:
            raise TeacherError(
                f"{self.name} has no answer for {len(missing)} of {len(texts)} texts, such as {missing[0][:60]!r}; "
                "record them too, or use a teacher that can be asked"
            )
        return [Answer(self._answers[text], "recorded", cost_usd=self._usd) for text in texts]

    async def aclose(self) -> None:
        """Do nothing: no file is open."""


def _labels(config: RecordedConfig, recorded: dict[str, npt.NDArray[np.generic]]) -> list[str]:
    """The labels of the recording, normalised like those of data files."""
    from distill.data.values import label_of, spelled

    try:
        labels = [label_of(spelled(label)) for label in recorded.get("labels", np.array([], dtype=str))]
    except ValueError as error:
        raise TeacherError(f"{config.logits}: array 'labels' holds {error}; write the labels as text") from error
    if None in labels:
        raise TeacherError(f"{config.logits}: label {labels.index(None)} of array 'labels' is empty; name it")
    if len(set(labels)) < len(labels):
        twice = Counter(labels).most_common(1)[0][0]
        raise TeacherError(f"{config.logits}: array 'labels' has {twice!r} twice; labels must differ")
    return [label for label in labels if label is not None]


def _rows(
    config: RecordedConfig, recording: Recording, recorded: dict[str, npt.NDArray[np.generic]]
) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """The texts of one array and their probabilities."""
    from distill.data.sources import read  # needs packages that serving does not install

    if recording.array not in recorded:
        raise TeacherError(f"{config.logits}: no array {recording.array!r}; there are {', '.join(recorded)}")
    array = recorded[recording.array]
    try:
        texts = read(recording.rows, "row").texts
    except DataError as error:
        raise TeacherError(str(error)) from error
    expected = (len(texts), len(recorded["labels"]))
    if array.dtype.kind not in "fiu" or array.shape != expected or not np.isfinite(array).all():
        raise TeacherError(
            f"{config.logits}: array {recording.array!r} of {array.dtype} has shape {array.shape}, expected finite "
            f"numbers of shape {expected}: the rows of {recording.rows.path}, and the labels"
        )
    logits = array.astype(np.float64) / config.temperature
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return texts, (exponent / exponent.sum(axis=1, keepdims=True)).astype(np.float32)
