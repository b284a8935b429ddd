"""Classify every row of a file with a bundle, on this machine and without a service."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distill.data.files import CSV, JSONL, PARQUET
from distill.data.sources import read
from distill.data.values import is_blank
from distill.errors import DataError
from distill.progress import status, track
from distill.sections import FileSource
from distill.stages import write_atomic
from export.bundle.cascade import is_deferred, load_classifier
from export.bundle.classifier import InferenceError
from export.bundle.format import Bundle

COLUMNS = ("id", "text", "label", "score", "truncated")
STAGE = "stage"
"""One more column of a cascade: the stage that answered."""

DEFERRED = "deferred"
"""One more column of a cascade with the teacher as the last stage: whether the text was left to it."""

_TARGETS = (*CSV, *JSONL, *PARQUET)


class Classified(NamedTuple):
    """The numbers of rows: all, those with a blank text, and those that were left to the teacher."""

    rows: int
    blank: int
    deferred: int


def classify_file(bundle: Bundle, source: FileSource, target: Path) -> Classified:
    """Write each row's text, label, score and whether it was truncated, in the format of the target's file ending.

    A cascade also gives the name of the stage that answered and, if it defers to the teacher, whether the text was left
    to it: the teacher is not asked, and the answer is that of the last student. A blank text gets an empty label, no
    score and no stage. Raises DataError for a source that cannot be read and for a target that cannot be written or is
    the source, InferenceError when the graph fails on a text.
    """
    _require_target(source, target)
    with status(f"reading {source.path.name}"):
        rows = read(source, "row", blanks=True)
        classifier = load_classifier(bundle)
    labels, stages = bundle.manifest.labels, [stage.name for stage in bundle.manifest.stages]
    deferring = bundle.manifest.deferred_below is not None
    columns = (*COLUMNS, *([STAGE] if stages else []), *([DEFERRED] if deferring else []))
    answers: list[tuple[Any, ...]] = []
    blank = deferred = 0
    for name, text in zip(rows.ids, track(rows.texts, "classifying", len(rows)), strict=True):
        if is_blank(text):
            answers.append((name, text, "", None, False, *([""] if stages else []), *([False] if deferring else [])))
            blank += 1
            continue
        try:
            answer = classifier.classify(text)
        except InferenceError as error:
            raise InferenceError(f"{source.path}: {name}: {error}; remove the row, or correct its text") from error
        stage = [stages[answer.stage]] if stages else []
        left = is_deferred(answer, bundle.manifest)
        deferred += left
        flags = [left] if deferring else []
        answers.append((name, text, labels[answer.best], answer.score, answer.truncated, *stage, *flags))
    write_atomic(target.resolve(), _written(columns, answers, target.suffix.lower()))
    return Classified(len(rows), blank, deferred)


def _require_target(source: FileSource, target: Path) -> None:
    """Raise DataError, before anything is classified, for a target that cannot or must not be written."""
    if target.suffix.lower() not in _TARGETS:
        raise DataError(f"{target}: unknown kind of file to write; end its name in one of {', '.join(_TARGETS)}")
    if target.is_dir():
        raise DataError(f"{target}: is a folder; name a file to write")
    if target.exists() and source.path.exists() and target.samefile(source.path):
        raise DataError(f"{target}: is the source itself, which would be lost; name another file to write")


def _written(columns: Sequence[str], answers: Sequence[tuple[Any, ...]], ending: str) -> str | bytes:
    if ending in PARQUET:
        return _parquet(columns, answers)
    if ending in JSONL:
        return "".join(
            json.dumps(dict(zip(columns, answer, strict=True)), ensure_ascii=False) + "\n" for answer in answers
        )
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter="\t" if ending == ".tsv" else ",")
    writer.writerow(columns)
    for answer in answers:
        writer.writerow([_field(value) for value in answer])
    return buffer.getvalue()


def _field(value: Any) -> str:
    """Return a value as a field of a CSV file: a score with six decimals, nothing for none."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value:.6f}" if isinstance(value, float) else str(value)


def _parquet(columns: Sequence[str], answers: Sequence[tuple[Any, ...]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    kinds = {"score": pyarrow.float64(), "truncated": pyarrow.bool_(), DEFERRED: pyarrow.bool_()}
    arrays = {
        name: pyarrow.array([answer[index] for answer in answers], kinds.get(name, pyarrow.string()))
        for index, name in enumerate(columns)
    }
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays), buffer)
    return buffer.getvalue()
