"""What a bundle knows of its own mistakes: how often it disagrees with its teacher, by confidence.

`Reference` is what serving reads (numpy only); `export.fit` makes it from the validation split, offline. It is the
baseline that live traffic is compared with, and it sets how often each confidence band is shadowed.
"""

from __future__ import annotations

import io
import zipfile
from bisect import bisect_right
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from export.bundle import REFERENCE, Bundle, BundleError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """Arrays over B confidence bands and J calibration knots, from the validation split.

    `confidence` [J], increasing, and `disagreement` [J], non-increasing, give P(student ≠ teacher) at a top
    probability by linear interpolation. `edges` [B−1] cut that probability into bands; `share` [B] sums to 1 and is
    the traffic expected in each, `spread` [B] the standard deviation of disagreement there, `null` [B] an upper bound
    of the disagreement there that holds while nothing changed. `rows` and `disagreements` [B] are the counts behind.
    """

    confidence: Floats
    disagreement: Floats
    edges: Floats
    share: Floats
    spread: Floats
    null: Floats
    rows: Floats
    disagreements: Floats

    @property
    def bands(self) -> int:
        """The number of bands."""
        return len(self.share)

    @property
    def gap(self) -> float:
        """The share of validation rows on which student and teacher disagree."""
        return float(self.disagreements.sum() / self.rows.sum())

    def expected_disagreement(self, top_probability: float) -> float:
        """P(student ≠ teacher) for an answer with this top probability, in [1e-4, 0.5]."""
        knots, values = self._curve
        place = bisect_right(knots, top_probability)
        if place in (0, len(knots)):
            return values[min(place, len(knots) - 1)]
        low, high = knots[place - 1], knots[place]
        share = (top_probability - low) / (high - low)
        return values[place - 1] + share * (values[place] - values[place - 1])

    def band(self, expected: float) -> int:
        """The band, in [0, B), of an expected disagreement."""
        return bisect_right(self._edges, expected)

    # Lists, for one number at a time: on small arrays numpy spends ten times as long.
    @cached_property
    def _curve(self) -> tuple[list[float], list[float]]:
        return self.confidence.tolist(), self.disagreement.tolist()

    @cached_property
    def _edges(self) -> list[float]:
        edges: list[float] = self.edges.tolist()
        return edges

    @classmethod
    def open(cls, bundle: Bundle) -> Self:
        """The reference of a bundle. Raises BundleError when it is not one."""
        return cls.load(bundle.path / REFERENCE)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `reference.npz`. Raises BundleError when it is none or an array is missing."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**{item.name: arrays[item.name].astype(np.float64) for item in fields(cls)})
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path}: not a reference ({error}); export the bundle again") from error

    def to_bytes(self) -> bytes:
        """The reference as the bytes of `reference.npz`."""
        buffer = io.BytesIO()
        np.savez(buffer, **{item.name: getattr(self, item.name) for item in fields(self)})
        return buffer.getvalue()
