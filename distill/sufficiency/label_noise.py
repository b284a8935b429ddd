"""Find labels that look wrong, by confident learning (Northcutt, Jiang & Chuang 2021, as cleanlab implements it)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cleanlab.filter import find_label_issues

from distill.sufficiency.probe import Classes, Floats


@dataclass(frozen=True, slots=True)
class Suspects:
    """Rows whose label looks wrong, [M], the most suspicious first, and the classes that look right instead, [M]."""

    rows: npt.NDArray[np.intp]
    likely: Classes


def find_suspects(classes: Classes, probabilities: Floats) -> Suspects:
    """Find the suspects among N rows by their labels, `classes` [N], and out-of-fold `probabilities` [N, K].

    Confident learning estimates how many labels are wrong, and the rows with the least probability of their own label
    are taken to be those. Of the filters that cleanlab has, this one finds most labels that were changed on purpose.
    """
    seen, own = np.unique(classes, return_inverse=True)  # cleanlab expects a row of every class
    known = probabilities[:, seen].astype(np.float64)
    known /= known.sum(axis=1, keepdims=True)
    rows = find_label_issues(
        own, known, filter_by="low_self_confidence", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    rows = np.asarray(rows, dtype=np.intp)
    return Suspects(rows, seen[known[rows].argmax(axis=1)])
