"""Classify every row of a file with a bundle, on this machine and without a service."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.data.files import CSV, JSONL, PARQUET
from distill.data.sources import read
from distill.data.values import is_blank
from distill.errors import DataError
from distill.progress import status, track
from distill.sections import FileSource
from distill.stages import write_atomic
from export.bundle.cascade import load_classifier
from export.bundle.classifier import InferenceError
from export.bundle.format import Bundle

COLUMNS = ("id", "text", "label", "score", "truncated")
STAGE = "stage"
"""One more column of a cascade: the stage that answered."""

_TARGETS = (*CSV, *JSONL, *PARQUET)


def classify_file(bundle: Bundle, source: FileSource, target: Path) -> tuple[int, int]:
    """Write each row's text, label, score and whether it was truncated, in the format of the target's file ending.

    A cascade also gives the name of the stage that answered. A blank text gets an empty label, no score and no stage.
    Returns the number of rows and how many of them are blank. Raises DataError for a source that cannot be read and for
    a target that cannot be written or is the source, InferenceError when the graph fails on a text.
    """
    _require_target(source, target)
    with status(f"reading {source.path.name}"):
        rows = read(source, "row", blanks=True)
        classifier = load_classifier(bundle)
    labels, stages = bundle.manifest.labels, [stage.name for stage in bundle.manifest.stages]
    answers: list[tuple[Any, ...]] = []
    blank = 0
    for name, text in zip(rows.ids, track(rows.texts, "classifying", len(rows)), strict=True):
        if is_blank(text):
            answers.append((name, text, "", None, False, *([""] if stages else [])))
            blank += 1
            continue
        try:
            answer = classifier.classify(text)
        except InferenceError as error:
            raise InferenceError(f"{source.path}: {name}: {error}; remove the row, or correct its text") from error
        stage = [stages[answer.stage]] if stages else []
        answers.append((name, text, labels[answer.best], answer.score, answer.truncated, *stage))
    columns = (*COLUMNS, STAGE) if stages else COLUMNS
    write_atomic(target.resolve(), _written(columns, answers, target.suffix.lower()))
    return len(rows), blank


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
    for name, text, label, score, truncated, *stage in answers:
        writer.writerow([name, text, label, "" if score is None else f"{score:.6f}", str(truncated).lower(), *stage])
    return buffer.getvalue()


def _parquet(columns: Sequence[str], answers: Sequence[tuple[Any, ...]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    kinds = {"score": pyarrow.float64(), "truncated": pyarrow.bool_()}
    arrays = {
        name: pyarrow.array([answer[index] for answer in answers], kinds.get(name, pyarrow.string()))
        for index, name in enumerate(columns)
    }
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays), buffer)
    return buffer.getvalue()
