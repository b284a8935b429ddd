"""What a bundle's inputs looked like when it was exported: the distributions that live requests are compared with.

`export.fit_drift` measures them on texts that the student was not trained on; they travel in `reference.npz` as arrays
whose names begin with `drift_`. This module stores, reads and checks them. It decides nothing: `service.monitor.drift`
has the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PREFIX = "drift_"
"""The names of the arrays in `reference.npz` begin with it."""


@dataclass(frozen=True, eq=False)
class DriftReference:
    """Distributions over M texts that the student was not trained on. Every array has one dimension.

    - `expected` [2]: mean and standard deviation of the expected disagreement.
    - `bands` [B], `classes` [K]: number of texts per confidence band and per predicted class.
    - `lengths` [L]: number of texts per bin of the number of tokens; `length_edges` [L − 1] are the upper, inclusive
      ends of all bins but the last.
    - `unknown` [U] and `unknown_edges` [U − 1]: the same of the share of unknown tokens; [0] and [0] if the tokenizer
      has no unknown token.
    - `projection` [D · d], row by row, and `offsets` [D]: the random Fourier features of the embedding x,
      φ_j = √(2/D) cos(ω_j · x + b_j) (Rahimi and Recht 2007), in 32 bits.
    - `means` [D]: the mean of φ. `precision` [D · D], row by row: the inverse of its covariance, in 32 bits.
    """

    expected: Floats
    bands: Floats
    classes: Floats
    lengths: Floats
    length_edges: Floats
    unknown: Floats
    unknown_edges: Floats
    projection: Floats
    offsets: Floats
    means: Floats
    precision: Floats

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other. Raises ValueError that names the array as it is stored."""
        features = len(self.offsets)
        counted = {"bands": self.bands, "classes": self.classes, "lengths": self.lengths, "unknown": self.unknown}
        checks = {
            "expected": len(self.expected) == 2 and bool((self.expected >= 0).all()),
            **{name: bool((counts >= 0).all()) for name, counts in counted.items()},
            "length_edges": _edges_fit(self.length_edges, self.lengths),
            "unknown_edges": _edges_fit(self.unknown_edges, self.unknown) or not len(self.unknown),
            "offsets": features > 0,
            "projection": features > 0 and len(self.projection) > 0 and len(self.projection) % features == 0,
            "means": len(self.means) == features,
            "precision": len(self.precision) == features**2,
        }
        texts = float(self.bands.sum())
        for name, counts in counted.items():
            checks[name] &= float(counts.sum()) == texts > 0 or (name == "unknown" and not len(counts))
        wrong = next((name for name, holds in checks.items() if not holds), None)
        if wrong is not None:
            raise ValueError(f"'{PREFIX}{wrong}' does not fit the other arrays of input drift")

    @property
    def texts(self) -> int:
        """The number of texts, M."""
        return int(self.bands.sum())

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding, d."""
        return len(self.projection) // len(self.offsets)

    def features(self, embeddings: npt.NDArray[np.float32]) -> Floats:
        """Return φ [N, D] of embeddings [N, d]. Raises ValueError if d is not that of the reference."""
        directions, offsets = self._map
        return np.asarray(np.cos(embeddings @ directions + offsets) * np.sqrt(2 / len(offsets)), dtype=np.float64)

    @cached_property
    def _map(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """ω [d, D] and b [D], in the type of the embeddings."""
        directions = self.projection.reshape(len(self.offsets), -1).astype(np.float32)
        return np.ascontiguousarray(directions.T), self.offsets.astype(np.float32)

    @classmethod
    def read(cls, arrays: Mapping[str, Floats]) -> Self | None:
        """Return the reference among the arrays of a file, by their names there; None if it has none.

        Raises ValueError if one is missing or does not fit the others.
        """
        found = {name.removeprefix(PREFIX): values for name, values in arrays.items() if name.startswith(PREFIX)}
        if not found:
            return None
        names = [item.name for item in fields(cls)]
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"'{PREFIX}{missing[0]}' is missing")
        return cls(**{name: found[name] for name in names})

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays to store, by their names in the file."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        found |= {name: found[name].astype(np.float32) for name in ("projection", "offsets", "precision")}
        return {PREFIX + name: values for name, values in found.items()}


def _edges_fit(edges: Floats, counts: Floats) -> bool:
    return len(edges) == len(counts) - 1 and bool((np.diff(edges) > 0).all())
