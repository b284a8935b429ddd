"""Few-shot examples: the labelled texts most similar to a text, by BM25 over character trigrams.

Trigrams tolerate typing errors and work in any language. Retrieval needs only numpy, so it also works while serving.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from distill.errors import DataError
from distill.sections import FileSource, Source, TicketSource
from distill.stages import fingerprint
from distill.teachers.errors import TeacherError

_WORD = re.compile(r"\w+")
_GRAM = 3


class FewShot(BaseModel):
    """Put the `k` rows of `data` that are most similar to a text before it, the most similar last.

    Every row needs a label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    data: Source
    k: int = Field(default=8, ge=1, le=64)

    def examples(self, text: str) -> list[tuple[str, str]]:
        """Up to `k` similar texts with their labels, the most similar last, without the text itself.

        Raises TeacherError if the data cannot be read.
        """
        return _index(self.data).nearest(text, self.k)[::-1]

    def labels(self) -> set[str]:
        """The labels of the data. Raises TeacherError if it cannot be read or a row has no label."""
        return set(_index(self.data).labels)

    def answering(self) -> dict[str, Any]:
        """The settings that determine the examples: the content of the rows, and `k`."""
        index = _index(self.data)
        return {"rows": fingerprint([index.texts, index.labels]), "k": self.k}


class _Index:
    """A search index of labelled texts."""

    def __init__(self, texts: tuple[str, ...], labels: tuple[str, ...]) -> None:
        import bm25s  # imports scipy if installed, so only load it for teachers with examples

        self.texts = texts
        self.labels = labels
        self._rows = defaultdict[str, list[int]](list)
        for row, text in enumerate(texts):
            self._rows[_plain(text)].append(row)
        self._scorer = bm25s.BM25()
        self._scorer.index([_grams(text) for text in texts], show_progress=False)

    def nearest(self, text: str, k: int) -> list[tuple[str, str]]:
        """The `k` rows with the best positive scores, best first, ties in file order, without copies of the text."""
        known = [gram for gram in _grams(text) if gram and gram in self._scorer.vocab_dict]
        if not known:
            return []
        scores: npt.NDArray[np.float32] = self._scorer.get_scores(known)
        scores[self._rows.get(_plain(text), [])] = 0.0
        found = np.flatnonzero((scores > 0) & (scores >= np.sort(scores)[-min(k, len(scores))]))
        best = found[np.argsort(-scores[found], kind="stable")][:k]
        return [(self.texts[row], self.labels[row]) for row in best]


@lru_cache(maxsize=4)
def _index(source: FileSource | TicketSource) -> _Index:
    """The index of a source, built once per process."""
    from distill.data.sources import read  # needs packages that serving does not install

    where = "the built-in tickets" if isinstance(source, TicketSource) else source.path
    try:
        examples = read(source, "row")
    except DataError as error:
        raise TeacherError(f"prompt.nearest: {error}") from error
    labels = tuple(label for label in examples.gold if label is not None)
    if len(labels) < len(examples.texts):
        unlabelled = len(examples.texts) - len(labels)
        raise TeacherError(f"prompt.nearest: {unlabelled} rows of {where} have no label; name its column with `label`")
    return _Index(examples.texts, labels)


def _plain(text: str) -> str:
    """A text without differences in case and white space."""
    return " ".join(text.casefold().split())


def _grams(text: str) -> list[str]:
    plain = " ".join(_WORD.findall(text.casefold()))
    return [plain[start : start + _GRAM] for start in range(len(plain) - _GRAM + 1)] or [plain]
