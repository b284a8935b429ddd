"""How varied the texts are: words that held-out texts have and train lacks, near twins in train, balance of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distill.sufficiency.probe import Classes, words

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

TWINS = 0.8
"""Two texts with at least this cosine of their TF-IDF weights are near twins."""

_SAMPLE = 1000
_CHUNK = 100  # texts that are compared with all others at once


@dataclass(frozen=True, slots=True)
class Diversity:
    """Shares in [0, 1]: of held-out words that train lacks (`unknown`), of texts in train with a near twin (`twins`).

    `labels` is the effective number of labels, exp of the entropy of their shares: the number of labels if all are
    equally frequent, less if some are rare.
    """

    unknown: float
    twins: float
    labels: float


def measure(
    train: Sequence[str], held_out: Sequence[str], inputs: csr_matrix, classes: Classes, *, seed: int = 0
) -> Diversity:
    """Measure the texts of train, `inputs` [N, D] and `classes` [N] of those with a label, against held-out texts."""
    known = {word for text in train for word in words(text)}
    said = [word for text in held_out for word in words(text)]
    unknown = sum(word not in known for word in said) / max(1, len(said))
    share = np.bincount(classes) / len(classes)
    share = share[share > 0]
    return Diversity(unknown, _twins(inputs, seed), float(np.exp(-(share * np.log(share)).sum())))


def _twins(inputs: csr_matrix, seed: int) -> float:
    """The share of a sample of rows that another row is near to. Rows have the length 1."""
    count = inputs.shape[0]
    rows = np.random.default_rng(seed).permutation(count)[:_SAMPLE]
    others = inputs.T.tocsr()
    near = 0
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        alike = (inputs[chunk] @ others).tocsr()
        alike[np.arange(len(chunk)), chunk] = 0.0  # itself
        near += int((alike.max(axis=1).toarray().ravel() >= TWINS).sum())
    return near / len(rows)
