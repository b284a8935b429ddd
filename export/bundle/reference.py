"""The reference of a bundle: how often it disagreed with its teacher on validation, by confidence.

`export.fit_reference` makes it offline; serving reads it (numpy only), compares live traffic with it, and derives from
it how often each confidence band is shadowed.
"""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from distill.errors import one_line
from export.bundle.ceilings import upper_bound
from export.bundle.drift_reference import PREFIX, DriftReference
from export.bundle.format import REFERENCE, Bundle, BundleError

Floats = npt.NDArray[np.float64]

MARGIN = 0.01
"""What the default SLO adds to the upper bound of the offline gap."""

_SCALARS = ("slo", "tolerated")  # each is stored as an array of one number; bundles of earlier versions lack them
_ROUNDING = 1e-6  # a 32-bit probability may be slightly above 1
_KINDS = {
    "confidence": "numbers that do not increase",
    "disagreement": "numbers that increase",
    "edges": "numbers that do not increase",
    "share": "shares that do not sum to 1",
    "rows": "counts below 0, or none above it",
    "disagreements": "counts below 0, or above those of 'rows'",
}


@dataclass(frozen=True)
class Reference:
    """Arrays over B confidence bands and J calibration knots, from the validation split.

    `confidence` [J], increasing, and `disagreement` [J], non-increasing, give P(student ≠ teacher) at a top
    probability, by linear interpolation; `edges` [B−1] cut P into bands. For each band: `share` [B], which
    sums to 1, is the expected traffic, `spread` [B] the standard deviation of disagreement, `null` [B] an upper bound
    of disagreement that holds while nothing has changed, `rows` and `disagreements` [B] the counts on validation.
    `drift` is what live inputs are compared with; None in bundles that are older than it.

    `slo` is the gap, in [0, 1], that the student shall stay below: by default the one-sided 95 % Clopper–Pearson bound
    of the gap on validation, plus 0.01. `tolerated` is the gap at which every band is at its ceiling,
    Σ_b share_b · null_b. Both are computed where they are not given, as for a bundle that was written without them.
    """

    confidence: Floats
    disagreement: Floats
    edges: Floats
    share: Floats
    spread: Floats
    null: Floats
    rows: Floats
    disagreements: Floats
    slo: float = math.nan
    tolerated: float = math.nan
    drift: DriftReference | None = None

    def __post_init__(self) -> None:
        """Check the arrays, and compute what was not given. Raises ValueError that names the first invalid array."""
        if problem := self._problem():
            raise ValueError(problem)
        if math.isnan(self.slo):
            upper = upper_bound(float(self.disagreements.sum()), float(self.rows.sum()), 0.05)
            object.__setattr__(self, "slo", min(upper + MARGIN, 1.0))
        if math.isnan(self.tolerated):
            object.__setattr__(self, "tolerated", float(self.share @ self.null))

    @property
    def bands(self) -> int:
        """The number of bands, B."""
        return len(self.share)

    @property
    def gap(self) -> float:
        """The share of validation rows on which student and teacher disagree."""
        return float(self.disagreements.sum() / self.rows.sum())

    def expected_disagreement(self, top_probability: float) -> float:
        """Return P(student ≠ teacher), in (0, 1), of an answer with this top probability."""
        knots, values = self._curve
        place = bisect_right(knots, top_probability)
        if place in (0, len(knots)):
            return values[min(place, len(knots) - 1)]
        low, high = knots[place - 1], knots[place]
        share = (top_probability - low) / (high - low)
        return values[place - 1] + share * (values[place] - values[place - 1])

    def band(self, expected: float) -> int:
        """Return the band, in [0, B), of an expected disagreement."""
        return bisect_right(self._edges, expected)

    # Lists: to look up a single number, numpy takes ten times as long.
    @cached_property
    def _curve(self) -> tuple[list[float], list[float]]:
        return self.confidence.tolist(), self.disagreement.tolist()

    @cached_property
    def _edges(self) -> list[float]:
        edges: list[float] = self.edges.tolist()
        return edges

    @classmethod
    def open(cls, bundle: Bundle) -> Self:
        """Read the reference of a bundle. Raises BundleError as `load` does, and for another number of classes."""
        path, labels = bundle.path / REFERENCE, len(bundle.manifest.labels)
        reference = cls.load(path)
        if reference.drift is not None and len(reference.drift.classes) != labels:
            raise BundleError(f"{path}: '{PREFIX}classes' does not have the {labels} labels; export the bundle again")
        return reference

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `reference.npz`. Raises BundleError when it is not one, or an array is missing or invalid."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {
                    name: _numbers(name, stored[name])
                    for name in (*_arrays(cls), *(name for name in stored.files if name.startswith(PREFIX)))
                }
                numbers = {name: _number(name, stored[name]) for name in _SCALARS if name in stored}
            given = {name: arrays[name] for name in _arrays(cls)}
            return cls(**given, **numbers, drift=DriftReference.read(arrays))  # type: ignore[arg-type]
        except Exception as error:  # numpy and zipfile raise many classes with no common base
            raise BundleError(f"{path}: not a reference ({one_line(error)}); export the bundle again") from error

    def _problem(self) -> str | None:
        """Return what is wrong with the first invalid array; None where all are valid."""
        bands = len(self.share)
        sizes = {
            "disagreement": len(self.confidence),
            "edges": bands - 1,
            **dict.fromkeys(("spread", "null", "rows", "disagreements"), bands),
        }
        for name, size in {"share": max(bands, 1), "confidence": max(len(self.confidence), 1), **sizes}.items():
            if len(getattr(self, name)) != size:
                return f"{name!r} has {len(getattr(self, name))} numbers, expected {size}"
        shares = ("confidence", "disagreement", "edges", "share", "spread", "null")
        if out := [
            name for name in shares if ((getattr(self, name) < 0) | (getattr(self, name) > 1 + _ROUNDING)).any()
        ]:
            return f"{out[0]!r} holds numbers that are not from 0 to 1"
        checks = {
            "confidence": bool((np.diff(self.confidence) > 0).all()),
            "disagreement": bool((np.diff(self.disagreement) <= 0).all()),
            "edges": bool((np.diff(self.edges) > 0).all()),
            "share": abs(float(self.share.sum()) - 1) < _ROUNDING,
            "rows": bool((self.rows >= 0).all() and self.rows.sum() > 0),
            "disagreements": bool(((self.disagreements >= 0) & (self.disagreements <= self.rows)).all()),
        }
        if wrong := next((name for name, holds in checks.items() if not holds), None):
            return f"{wrong!r} holds {_KINDS[wrong]}"
        for name in _SCALARS:
            value = getattr(self, name)
            if not (math.isnan(value) or 0 <= value <= 1 + _ROUNDING):
                return f"{name!r} is not from 0 to 1"
        if self.drift is not None and len(self.drift.bands) != bands:
            return f"'{PREFIX}bands' has {len(self.drift.bands)} numbers, expected {bands}"
        return None

    def to_bytes(self) -> bytes:
        """Return the bytes of `reference.npz`."""
        buffer = io.BytesIO()
        stored: dict[str, Any] = {name: getattr(self, name) for name in _arrays(type(self))}
        stored |= {name: np.array([getattr(self, name)]) for name in _SCALARS}
        if self.drift is not None:
            stored |= self.drift.arrays()
        np.savez(buffer, **stored)
        return buffer.getvalue()


def _arrays(kind: type[Reference]) -> list[str]:
    """Return the names of the arrays that every file has."""
    return [item.name for item in fields(kind) if item.default is MISSING]


def _numbers(name: str, values: npt.NDArray[np.generic]) -> Floats:
    """Return a one-dimensional array of finite numbers as float64. Raises ValueError that names any other array."""
    if values.ndim != 1 or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise ValueError(f"{name!r} must be finite numbers in one dimension, not {values.dtype} {list(values.shape)}")
    return values.astype(np.float64)


def _number(name: str, values: npt.NDArray[np.generic]) -> float:
    """Return the one number of an array. Raises ValueError that names any other array."""
    numbers = _numbers(name, values)
    if len(numbers) != 1:
        raise ValueError(f"{name!r} has {len(numbers)} numbers, expected 1")
    return float(numbers[0])
