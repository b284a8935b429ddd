"""What a bundle knows of its own mistakes: how often it disagrees with its teacher, by confidence.

`Reference` is what serving reads (numpy only); `fit_reference` makes it from the validation split, offline. It is the
baseline that live traffic is compared with, and it sets how often each confidence band is shadowed.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from export.bundle import REFERENCE, Bundle, BundleError

Floats = npt.NDArray[np.float64]

BAND_EDGES = (0.004, 0.02, 0.1, 0.3)
CLIP = (1e-4, 0.5)


@dataclass(frozen=True, slots=True)
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
        return float(np.interp(top_probability, self.confidence, self.disagreement))

    def band(self, expected: float) -> int:
        """The band, in [0, B), of an expected disagreement."""
        return int(np.searchsorted(self.edges, expected, side="right"))

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


def fit_reference(top: Floats, disagree: npt.NDArray[np.bool_], edges: tuple[float, ...] = BAND_EDGES) -> Reference:
    """The reference of a student from N validation rows: its top probabilities [N] and where it disagrees [N].

    Isotonic regression calibrates disagreement against confidence. The null of a band is the Clopper–Pearson upper
    bound at 0.05/B plus a tolerance of max(0.005, a quarter of the rate), so that it holds for all bands at once.
    """
    from scipy.optimize import isotonic_regression
    from scipy.stats import beta

    # Rows of one confidence are one point, so that the fit does not depend on their order.
    distinct, place, counts = np.unique(top, return_inverse=True, return_counts=True)
    observed = np.bincount(place, weights=disagree.astype(np.float64)) / counts
    fitted = isotonic_regression(observed, weights=counts, increasing=False).x
    # The clip keeps a perfect validation split from promising that no disagreement ever happens.
    confidence, disagreement = _knots(distinct, np.clip(fitted, *CLIP))
    expected = np.interp(top, confidence, disagreement)
    band = np.searchsorted(np.array(edges), expected, side="right")
    bands = len(edges) + 1
    rows = np.bincount(band, minlength=bands).astype(np.float64)
    wrong: Floats = np.bincount(band, weights=disagree.astype(np.float64), minlength=bands).astype(np.float64)
    rate = wrong / np.maximum(rows, 1)
    variance = np.bincount(band, weights=expected * (1 - expected), minlength=bands) / np.maximum(rows, 1)
    upper = beta.ppf(1 - 0.05 / bands, wrong + 1, np.maximum(rows - wrong, 1e-9))
    upper = np.where((rows > 0) & (wrong < rows), upper, 1.0)
    # A band that validation never met is taken to be as undecided as it can be by definition.
    highest = np.minimum([*edges, 1.0], CLIP[1])
    return Reference(
        confidence=confidence,
        disagreement=disagreement,
        edges=np.array(edges),
        share=rows / rows.sum(),
        spread=np.sqrt(np.where(rows > 0, variance, highest * (1 - highest))),
        null=np.minimum(upper + np.maximum(0.005, 0.25 * rate), 1.0),
        rows=rows,
        disagreements=wrong,
    )


def _knots(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The ends of each constant stretch of a step function, so that interpolation between them reproduces it."""
    change = np.flatnonzero(np.diff(y)) + 1
    first, last = np.concatenate([[0], change]), np.concatenate([change - 1, [len(y) - 1]])
    keep = np.unique(np.concatenate([first, last]))
    return x[keep], y[keep]
