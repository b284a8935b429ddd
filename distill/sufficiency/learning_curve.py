"""Measure a learning curve: the probe's error by the number of texts that it is trained on, out of fold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from distill.sufficiency import probe

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = npt.NDArray[np.float64]

SIZES = 5
FOLDS = 5
SMALLEST = 1 / 8
"""The smallest size as a share of the largest. Below it, curves are often not yet a power law."""

LEAST_ROWS = 200
MOST_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Curve:
    """`errors` [F, S] of F folds at S `sizes`, each the share of a fold's rows that the probe gets wrong.

    `rows` [N] are the rows that were used, and `probabilities` [N, K] the probe's answers to them, each by the probe
    that was trained on the most of the other folds.
    """

    sizes: Floats
    errors: Floats
    rows: npt.NDArray[np.intp]
    probabilities: probe.Floats


def measure(
    inputs: csr_matrix,
    classes: probe.Classes,
    labels: int,
    *,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> Curve:
    """Measure the curve on N rows, `inputs` [N, D] and `classes` [N], with K = `labels`; a sample of MOST_ROWS of more.

    Each fold is answered by probes that are trained on nested samples of the other folds. `advance(1)` is called for
    each of FOLDS × SIZES probes. Raises ValueError with fewer than LEAST_ROWS rows.
    """
    if len(classes) < LEAST_ROWS:
        raise ValueError(f"expected {LEAST_ROWS} or more rows, got {len(classes)}")
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(classes))[:MOST_ROWS]
    parts = np.array_split(np.arange(len(rows)), FOLDS)
    largest = len(rows) - len(parts[0])
    sizes = np.round(largest * np.geomspace(SMALLEST, 1.0, SIZES)).astype(np.intp)
    errors = np.empty((FOLDS, SIZES))
    probabilities = np.empty((len(rows), labels), dtype=np.float32)
    for fold, held in enumerate(parts):
        others = generator.permutation(np.setdiff1d(np.arange(len(rows)), held))
        truth = classes[rows[held]]
        for step, size in enumerate(sizes):
            learn = rows[others[:size]]
            answers = probe.train_and_predict(inputs, classes, labels, learn, rows[held], seed=fold)
            errors[fold, step] = (answers.argmax(axis=1) != truth).mean()
            advance(1)
        probabilities[held] = answers
    return Curve(sizes.astype(np.float64), errors, rows, probabilities)
