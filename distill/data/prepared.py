"""The prepared data of a run: its splits, labels and report, as the data stage wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from distill.data.checks import Finding
from distill.data.splits import Examples, S, Test, Train, Validation, join
from distill.data.views import make_views, paraphrase_rows
from distill.sections import Views
from distill.stages import write_atomic

SCHEMA = "2"
"""The version of what is computed from the same files; a new one makes the stage out of date."""

_REPORT = "data.json"


@dataclass(frozen=True, slots=True)
class Splits:
    """The splits of a run, the task's labels, and the report of how they were made."""

    train: Train
    validation: Validation
    test: Test
    labels: tuple[str, ...]
    report: dict[str, Any]

    @property
    def findings(self) -> list[Finding]:
        """The warnings about the data."""
        return [Finding(**finding) for finding in self.report["findings"]]

    @property
    def everything(self) -> Examples:
        """All rows, which the teacher labels."""
        return join(self.train, self.validation, self.test)

    def views(self, section: Views | None) -> Train:
        """Return views of the texts to train on, which the teacher labels too; none without a section."""
        if section is None:
            return self.train.take([])
        return make_views(self.train, self._held_out, section)

    def paraphrases(self, written: Sequence[Sequence[str]], views: Train) -> Train:
        """Return what was written of each text to train on as rows, which the teacher labels too; no `views` again."""
        return paraphrase_rows(self.train, (*self._held_out, *views.texts), written)

    @property
    def _held_out(self) -> tuple[str, ...]:
        return (*self.validation.texts, *self.test.texts)


def write_splits(folder: Path, splits: Mapping[str, Examples], report: Mapping[str, Any]) -> None:
    """Write `splits` by name, and the report, whose `labels` are the task's, into a folder."""
    for name, split in splits.items():
        _write_split(folder / f"{name}.parquet", split)
    write_atomic(folder / _REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def read_splits(folder: Path) -> Splits:
    """Read what `write_splits` wrote."""
    report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
    return Splits(
        _read_split(folder / "train.parquet", Train),
        _read_split(folder / "validation.parquet", Validation),
        _read_split(folder / "test.parquet", Test),
        tuple(report["labels"]),
        report,
    )


def _write_split(path: Path, split: Examples) -> None:
    table = pyarrow.table(
        {"id": list(split.ids), "text": list(split.texts), "gold": pyarrow.array(split.gold, pyarrow.string())}
    )
    pyarrow.parquet.write_table(table, path)


def _read_split(path: Path, kind: type[S]) -> S:
    columns = pyarrow.parquet.read_table(path).to_pydict()
    return kind(tuple(columns["id"]), tuple(columns["text"]), tuple(columns["gold"]))
