"""Live counts in cells: one time slot × one confidence band × one sampling probability.

Any window is the sum of the cells whose slots it holds, and counts of several pods add up. Within a cell every request
had the same probability of being sampled, so that estimates stay right when the sampling rate changes. Cells are what
estimators read; the shadow counts them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SLOT_SECONDS = 300
"""Length of a time slot."""

_SLACK = 1e-9  # relative rounding of long sums


@dataclass(frozen=True, eq=False)
class Cells:
    """The counts of C cells; every field has shape [C]. Several cells may share slot, band and propensity.

    - `slot`: start of the slot in which the requests were answered, Unix seconds; 0 = older than is kept in slots.
      Comparisons and losses belong to the slot of their request, however late they come.
    - `band`: confidence band, 0 = most confident.
    - `propensity`: probability with which the requests were sampled, in (0, 1].
    - `requests`: answered requests for which a coin was tossed, N.
    - `expected`: sum of the calibrated probability of disagreement over them.
    - `sampled`: requests chosen for the teacher. It may exceed `requests` in a slot: a teacher takes over what was left
      pending for another one, without the requests that were not sampled.
    - `lost`: sampled, but ended without a comparison.
    - `agreed`, `disagreed`: comparisons in which the teacher chose the same, or another class.

    Raises ValueError if shapes differ, a count is negative or not finite, a propensity is outside its range, a band is
    negative, or a count exceeds the one that it is part of.
    """

    slot: Floats
    band: Ints
    propensity: Floats
    requests: Floats
    expected: Floats
    sampled: Floats
    lost: Floats
    agreed: Floats
    disagreed: Floats

    def __post_init__(self) -> None:
        """Convert to float64, `band` to int64, and refuse impossible counts."""
        shape = np.shape(self.slot)
        for item in fields(self):
            given = np.asarray(getattr(self, item.name))
            values = given.astype(np.int64 if item.name == "band" else np.float64)
            if values.ndim != 1 or values.shape != shape:
                raise ValueError(f"{item.name} must have one number per cell, got shape {values.shape}, slot {shape}")
            if not np.all((values >= 0) & np.isfinite(values) & (values == given)):
                raise ValueError(f"{item.name} must be finite and >= 0, a band a whole number, got {given}")
            object.__setattr__(self, item.name, values)
        if not np.all((self.propensity > 0.0) & (self.propensity <= 1.0)):
            raise ValueError(f"propensity must be in (0, 1], got {self.propensity}")
        if np.any(self.expected > self.requests * (1.0 + _SLACK)):
            raise ValueError("expected must not exceed requests in any cell")
        if np.any(self.lost + self.compared > self.sampled * (1.0 + _SLACK)):
            raise ValueError("lost + agreed + disagreed must not exceed sampled in any cell")

    @classmethod
    def of(cls, **counts: npt.ArrayLike) -> Self:
        """Return cells of the given fields, with single numbers repeated for every cell.

        Fields left out are 0, `propensity` 1. Raises ValueError as the class does, TypeError for an unknown field.
        """
        names = [item.name for item in fields(cls)]
        if unknown := counts.keys() - set(names):
            raise TypeError(f"cells have no {', '.join(sorted(unknown))}")
        given = [counts.get(name, 1.0 if name == "propensity" else 0) for name in names]
        return cls(*np.broadcast_arrays(np.zeros(1), *given)[1:])

    @classmethod
    def zeros(cls) -> Self:
        """Return no cells, C = 0."""
        return cls.of(slot=[])

    def __len__(self) -> int:
        """Return the number of cells, C."""
        return len(self.slot)

    def __add__(self, other: Cells) -> Cells:
        """Return the cells of both, one after the other; equal ones are not merged."""
        return Cells(*(np.concatenate([getattr(self, item.name), getattr(other, item.name)]) for item in fields(self)))

    @property
    def compared(self) -> Floats:
        """Completed comparisons per cell."""
        return self.agreed + self.disagreed

    @property
    def pending(self) -> Floats:
        """Sampled requests per cell that have neither ended nor been compared yet."""
        return np.maximum(self.sampled - self.lost - self.compared, 0.0)

    def since(self, start: float) -> Cells:
        """Return the cells whose slot starts at `start` (Unix seconds) or later."""
        return self.where(self.slot >= start)

    def where(self, chosen: npt.NDArray[np.bool_]) -> Cells:
        """Return the cells for which `chosen` [C] is true."""
        part = object.__new__(Cells)  # some of these cells need no second check
        for item in fields(self):
            object.__setattr__(part, item.name, getattr(self, item.name)[chosen])
        return part

    def by_band(self, values: Floats, bands: int) -> Floats:
        """Return the sums of `values` [C] per band, shape [bands].

        Raises ValueError if a cell belongs to a band that is not below `bands`.
        """
        if len(self) and int(self.band.max()) >= bands:
            raise ValueError(f"cells have a band {self.band.max()}, expected {bands} bands")
        return np.bincount(self.band, weights=values, minlength=bands).astype(np.float64)
