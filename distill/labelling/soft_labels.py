"""Soft labels: a teacher's distributions over a pool, with their provenance, in a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet
from pydantic import BaseModel

from distill.errors import DataError
from distill.teachers.scaling import Scaling

SCHEMA = "2"


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """N rows: `probabilities` float32 [N, K] in the order of `labels`, each row summing to 1.

    `covered` and `tail` [N] are the probability mass on labels and the mass that could not be seen, both in [0, 1];
    `tokens`, `cost_usd` and `seconds` [N] are what each answer took. If the teacher was calibrated by `scaling`,
    `raw` [N, K] holds the probabilities before it; else both are None. `terms` are the teachers' acknowledged terms of
    use, each with its `reference`.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    methods: tuple[str, ...]
    covered: npt.NDArray[np.float64]
    tail: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    cost_usd: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]
    teacher: str
    teacher_version: str
    raw: npt.NDArray[np.float32] | None = None
    scaling: Scaling | None = None
    terms: tuple[dict[str, Any], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def hard(self) -> npt.NDArray[np.intp]:
        """The index of the most probable label per row, [N]."""
        choice: npt.NDArray[np.intp] = self.probabilities.argmax(axis=1)
        return choice

    def calibrated(self, scaling: Scaling) -> Self:
        """Return a copy with calibrated probabilities; the raw ones stay in `raw`."""
        raw = self.probabilities if self.raw is None else self.raw
        return replace(self, probabilities=scaling.apply(raw), raw=raw, scaling=scaling)

    def at_price_of(self, teacher: BaseModel) -> Self:
        """Return a copy in which answers cost what the configuration of a teacher says now; what was paid stays.

        The price is that of a machine's hour (`usd_per_hour`) or of recorded answers (`usd_per_1000`). That of an
        ensemble's members stays as it was when they answered, since it has no time of each.
        """
        if (hour := getattr(teacher, "usd_per_hour", None)) is not None:
            return replace(self, cost_usd=self.seconds * hour / 3600)
        if (thousand := getattr(teacher, "usd_per_1000", None)) is not None:
            return replace(self, cost_usd=np.full(len(self), thousand / 1000))
        return self

    def rows_of(self, ids: Sequence[str]) -> list[int]:
        """Return the row number of each id. Raises DataError for an id that has no row."""
        position = {name: row for row, name in enumerate(self.ids)}
        try:
            return [position[name] for name in ids]
        except KeyError as error:
            raise DataError(f"the teacher's labels have no row {error}; run `reflux label` again") from error

    def write(self, path: Path) -> None:
        """Write a Parquet file for `read`."""
        count = len(self)
        table = pyarrow.table(
            {
                "id": list(self.ids),
                "text": list(self.texts),
                "probabilities": _column(self.probabilities),
                **({} if self.raw is None else {"raw": _column(self.raw)}),
                "method": pyarrow.array(self.methods).dictionary_encode(),
                "covered": self.covered,
                "tail": self.tail,
                "teacher": pyarrow.array([self.teacher] * count).dictionary_encode(),
                "teacher_version": pyarrow.array([self.teacher_version] * count).dictionary_encode(),
                "tokens": self.tokens,
                "cost_usd": self.cost_usd,
                "seconds": self.seconds,
            }
        )
        metadata = {
            "reflux.schema": SCHEMA,
            "reflux.labels": json.dumps(self.labels),
            "reflux.teacher": json.dumps([self.teacher, self.teacher_version]),
            "reflux.calibration": json.dumps(None if self.scaling is None else self.scaling.as_dict()),
            "reflux.terms": json.dumps(self.terms, ensure_ascii=False),
        }
        pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)

    @classmethod
    def read(cls, path: Path) -> SoftLabels:
        """Read a file of `write`. Raises DataError for any other file, and for one of another schema."""
        try:
            table = pyarrow.parquet.read_table(path)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise DataError(f"{path}: not a file of soft labels ({error}); run `reflux label`") from error
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if metadata.get("reflux.schema") != SCHEMA:
            found = metadata.get("reflux.schema")
            raise DataError(f"{path}: soft labels of schema {found!r}, expected {SCHEMA!r}; run `reflux label` again")
        labels = tuple(json.loads(metadata["reflux.labels"]))
        teacher, version = json.loads(metadata["reflux.teacher"])
        scaling = json.loads(metadata["reflux.calibration"])
        return cls(
            ids=tuple(table["id"].to_pylist()),
            texts=tuple(table["text"].to_pylist()),
            labels=labels,
            probabilities=_rows(table, "probabilities", len(labels)),
            methods=tuple(table["method"].to_pylist()),
            covered=table["covered"].to_numpy(),
            tail=table["tail"].to_numpy(),
            tokens=table["tokens"].to_numpy(),
            cost_usd=table["cost_usd"].to_numpy(),
            seconds=table["seconds"].to_numpy(),
            teacher=teacher,
            teacher_version=version,
            raw=_rows(table, "raw", len(labels)) if "raw" in table.column_names else None,
            scaling=None if scaling is None else Scaling.from_dict(scaling, len(labels)),
            terms=tuple(json.loads(metadata["reflux.terms"])),
        )


def _column(rows: npt.NDArray[np.float32]) -> Any:
    """Convert rows [N, K] to a column of lists."""
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), rows.shape[1])


def _rows(table: Any, name: str, count: int) -> npt.NDArray[np.float32]:
    """Convert a column of lists to rows [N, K]."""
    flat: npt.NDArray[np.float32] = table[name].combine_chunks().flatten().to_numpy()
    return flat.reshape(-1, count).astype(np.float32)
