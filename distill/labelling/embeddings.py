"""Embeddings: the pooled hidden states of a teacher for the texts of a run, computed once, in a Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet

from distill.data.splits import Examples
from distill.errors import DataError
from distill.progress import bar
from distill.teachers import Teacher, TeacherError

T = TypeVar("T")

_TOGETHER = 1024  # texts that a teacher is given at once; it makes batches of them itself


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The embeddings `values` [N, d] of the rows `ids`, in 16 bits: no student is fitted as closely as that."""

    ids: tuple[str, ...]
    values: npt.NDArray[np.float16]

    def known(self, split: Examples, tokens: Sequence[T]) -> tuple[list[T], npt.NDArray[np.float32]]:
        """Return, of the rows of a split that have an embedding, their `tokens` and the embeddings [M, d]."""
        position = {name: row for row, name in enumerate(self.ids)}
        found = [row for row, name in enumerate(split.ids) if name in position]
        places = [position[split.ids[row]] for row in found]
        return [tokens[row] for row in found], self.values[places].astype(np.float32)

    def write(self, path: Path) -> None:
        """Write a Parquet file for `read`."""
        flat = pyarrow.array(self.values.reshape(-1))
        column = pyarrow.FixedSizeListArray.from_arrays(flat, self.values.shape[1])
        pyarrow.parquet.write_table(pyarrow.table({"id": list(self.ids), "embedding": column}), path)

    @classmethod
    def read(cls, path: Path) -> Embeddings:
        """Read a file of `write`. Raises DataError for any other file."""
        try:
            table = pyarrow.parquet.read_table(path)
            ids, column = tuple(table["id"].to_pylist()), table["embedding"].combine_chunks()
            return cls(ids, column.flatten().to_numpy().reshape(len(ids), column.type.list_size))
        except (OSError, KeyError, AttributeError, pyarrow.ArrowInvalid) as error:
            raise DataError(f"{path}: not a file of embeddings ({error}); run `reflux label`") from error


def embed_all(teacher: Teacher, examples: Examples) -> Embeddings:
    """Return the embeddings of `examples`, one row or more. Raises TeacherError for a teacher without hidden states."""
    embed = getattr(teacher, "embed", None)
    if embed is None:
        raise TeacherError(f"embedding_phase: {teacher.name} has no hidden states; leave it out")
    parts = []
    with bar(f"{teacher.name} embeds the texts", len(examples)) as advance:
        for start in range(0, len(examples), _TOGETHER):
            texts = examples.texts[start : start + _TOGETHER]
            parts.append(np.asarray(embed(texts), dtype=np.float16))
            advance(len(texts))
    return Embeddings(examples.ids, np.concatenate(parts))
