"""The rows of a new task: read the file, hold rows out to judge the students by, and write what has to be a file."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.checks import ENOUGH_PER_LABEL, ENOUGH_TO_JUDGE
from distill.data.deduplicate import deduplicate
from distill.data.sources import read
from distill.data.splits import Examples, hold_out, normalise
from distill.data.values import is_blank
from distill.errors import DataError
from distill.sections import FileSource
from distill.stages import write_atomic
from distill.task import Data

VALIDATION = 0.1
"""The share of the pool that the task holds out to choose by."""

SHARE = 0.2
_MOST_SHARE = 1 / 3
_MOST_TO_JUDGE = 2000
_FEW = 1000  # rows, of which a share might be none
CHOSEN = 0.99
"""The probability of a recorded label; the other labels share the rest."""


@dataclass(slots=True)
class TaskRows:
    """The rows to learn from and those to judge by. A side that is not `kept` in its own file has to be written."""

    source: FileSource
    test_source: FileSource | None
    train: Examples
    test: Examples
    kept: bool
    imitated: bool
    notes: list[str]

    @classmethod
    def read(cls, source: FileSource, test: Path | None, *, imitated: bool) -> TaskRows:
        """Read the file, and the one to judge by if there is one; else hold some rows out.

        Raises DataError for a file that cannot be read, and for too few rows.
        """
        notes: list[str] = []
        rows = _usable(source, notes, imitated=imitated)
        if test is None:
            learn, judge = divide(rows)
            _require_validation(source.path, learn, judge, imitated=imitated)
            return cls(source, None, learn, judge, False, imitated, notes)
        test_source = source.model_copy(update={"path": test})
        test_rows = _usable(test_source, notes, imitated=imitated)
        _require_validation(source.path, rows, test_rows, imitated=imitated)
        return cls(source, test_source, rows, test_rows, not notes and not imitated, imitated, notes)

    @property
    def counts(self) -> Counter[str]:
        """The number of rows of each label."""
        return Counter(label for side in (self.train, self.test) for label in side.gold if label is not None)


def _usable(source: FileSource, notes: list[str], *, imitated: bool) -> Examples:
    """The rows with a text and, if they are to be imitated, with an answer; `notes` says how many are left out."""
    rows, blank = read_rows(source)
    if blank:
        notes.append(f"{source.path}: {blank:,} rows without a text are left out")
    if not imitated:
        return rows
    answered = rows.with_gold()
    if not len(answered):
        raise DataError(f"{source.path}: no row has an answer in column {source.label!r}")
    if len(answered) < len(rows):
        notes.append(f"{source.path}: {len(rows) - len(answered):,} rows without an answer are left out")
    return answered


def _require_validation(path: Path, train: Examples, test: Examples, *, imitated: bool) -> None:
    """Raise DataError if the data stage, which removes duplicates first, would hold out no row to choose by."""
    if len(train) > _FEW:
        return
    if imitated:  # the answers are no gold labels
        train = Examples(train.ids, train.texts, (None,) * len(train))
    pool, _ = deduplicate(train, {"test": test}, Data.model_fields["near_duplicate"].default)
    if not len(pool) or not len(hold_out(pool, VALIDATION, Data.model_fields["seed"].default)[1]):
        raise DataError(
            f"{path}: {len(pool)} different texts to learn from are too few to hold {VALIDATION:.0%} of them out for "
            f"validation; add rows, {ENOUGH_PER_LABEL} or more of each label"
        )


def read_rows(source: FileSource) -> tuple[Examples, int]:
    """Return the rows that have a text, and how many have none. Raises DataError for a file that cannot be read."""
    rows = read(source, "row", blanks=True)
    filled = [row for row, text in enumerate(rows.texts) if not is_blank(text)]
    if not filled:
        raise DataError(f"{source.path}: no row has a text in column {source.text!r}")
    return rows.take(filled), len(rows) - len(filled)


def divide(rows: Examples, seed: int = 0) -> tuple[Examples, Examples]:
    """Divide rows into those to learn from and those to judge by, by the gold label if there is one.

    All rows with one text (in any case and spacing) are on one side. A fifth judges, but 300 to 2,000 rows as far as a
    third of the rows allows. If only some rows have a gold label, the others are all to learn from.
    """
    first: dict[str, int] = {}
    for row, text in enumerate(rows.texts):
        if rows.gold[row] is not None or all(label is None for label in rows.gold):
            first.setdefault(normalise(text), row)
    distinct = rows.take(list(first.values()))
    most = min(_MOST_TO_JUDGE, _MOST_SHARE * len(distinct))
    share = min(max(SHARE * len(distinct), ENOUGH_TO_JUDGE), most) / max(1, len(distinct))
    _, judging = hold_out(distinct, share, seed)
    if not len(judging):
        raise DataError("too few rows to hold some out to judge the students by; add rows, or give --test")
    held = {normalise(text) for text in judging.texts}
    sides: tuple[list[int], list[int]] = ([], [])
    for row, text in enumerate(rows.texts):
        sides[normalise(text) in held].append(row)
    generator = random.Random(
        seed
    )  # files are often sorted by label, and the beginning of one should show what it holds
    for side in sides:
        generator.shuffle(side)
    return rows.take(sides[0]), rows.take(sides[1])


def write_csv(path: Path, rows: Examples, *, labels: bool) -> None:
    """Write a file with the columns `text` and, if asked for, `label`."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(("text", "label") if labels else ("text",))
    for text, label in zip(rows.texts, rows.gold, strict=True):
        writer.writerow((text, label or "") if labels else (text,))
    write_atomic(path, buffer.getvalue())


def write_recording(path: Path, labels: Sequence[str], arrays: dict[str, Examples]) -> None:
    """Write the labels of rows as the recording of a teacher that gave each the probability CHOSEN.

    The file has the arrays `labels` [K] and, by name, logits [N, K].
    """
    position = {label: index for index, label in enumerate(labels)}
    other = np.log((1 - CHOSEN) / (len(labels) - 1))
    recorded: dict[str, Any] = {}
    for name, rows in arrays.items():
        logits = np.full((len(rows), len(labels)), other, dtype=np.float32)
        chosen = [position[label] for label in rows.gold if label is not None]
        logits[np.arange(len(rows)), chosen] = np.log(CHOSEN)
        recorded[name] = logits
    buffer = io.BytesIO()
    recorded["labels"] = np.array(labels)
    np.savez_compressed(buffer, **recorded)
    write_atomic(path, buffer.getvalue())
